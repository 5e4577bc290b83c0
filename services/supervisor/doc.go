// Package supervisor starts services in the order of their dependencies, each in its own sandbox and with its own
// limits, keeps them running, and says what state each is in.
package supervisor
