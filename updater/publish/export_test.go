package publish

// Cut has o end before the file that at answers with an error for.
func Cut(o *Options, at func(file string) error) { o.step = at }
