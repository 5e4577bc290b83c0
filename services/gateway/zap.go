package gateway

import (
	"context"
	"log/slog"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// zapLogger lets certmagic's warnings and errors, and nothing below, out through log.
func zapLogger(log *slog.Logger) *zap.Logger { return zap.New(zapCore{log: log}) }

type zapCore struct {
	log    *slog.Logger
	fields []zapcore.Field
}

func (zapCore) Enabled(l zapcore.Level) bool { return l >= zapcore.WarnLevel }
func (zapCore) Sync() error                  { return nil }

func (c zapCore) With(f []zapcore.Field) zapcore.Core {
	return zapCore{c.log, append(c.fields[:len(c.fields):len(c.fields)], f...)}
}

func (c zapCore) Check(e zapcore.Entry, ce *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if c.Enabled(e.Level) {
		return ce.AddCore(e, c)
	}
	return ce
}

func (c zapCore) Write(e zapcore.Entry, fields []zapcore.Field) error {
	enc := zapcore.NewMapObjectEncoder()
	for _, f := range append(c.fields[:len(c.fields):len(c.fields)], fields...) {
		f.AddTo(enc)
	}
	level := slog.LevelWarn
	if e.Level > zapcore.WarnLevel {
		level = slog.LevelError
	}
	c.log.Log(context.Background(), level, "certificates: "+e.Message, "fields", enc.Fields)
	return nil
}
