package publish

// Cut has o end before the file that at answers with an error for.
func Cut(o *Options, at func(file string) error) { o.step = at }

// Why a log does not take an entry.
var (
	ErrStranger = errRefused
	ErrTwice    = errTwice
)

// Whose is the file that an entry for a log is.
func Whose(s *LogServer, entry []byte) (string, error) {
	_, file, err := s.whose(entry)
	return file, err
}
