package image

import "context"

func (b *builder) components(context.Context) error { return nil }
