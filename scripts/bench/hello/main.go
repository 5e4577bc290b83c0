// Command hello is the one program of the bare gokrazy image that "make bench" starts beside Croft: it answers every
// request on port 80 with one line.
package main

import (
	"io"
	"log"
	"net/http"
)

func main() {
	log.Fatal(http.ListenAndServe(":80", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		io.WriteString(w, "hello\n")
	})))
}
