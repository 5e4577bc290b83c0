package fetch

// Verify is verify, for tests.
var Verify = verify

// SetReserve says how many bytes have to stay free.
func SetReserve(s *Store, n int64) { s.reserve = n }
