// Command hello is PID 1 of the smallest guest: it says hello, writes to its second disk and answers the console.
package main

import (
	"fmt"
	"os"
	"syscall"
	"time"
)

func main() {
	fmt.Println("\x1b[1mhello\x1b[0m")
	fmt.Println("Claim code: 7QHM-2ZKX")
	syscall.Mount("devtmpfs", "/dev", "devtmpfs", 0, "")
	if f, err := os.OpenFile("/dev/vdb", os.O_WRONLY, 0); err != nil {
		fmt.Println("no disk:", err)
	} else {
		f.WriteAt(make([]byte, 4096), 8192)
		f.Sync()
		fmt.Println("wrote and synced")
	}
	for i := 0; ; i++ {
		fmt.Println("still here", i)
		time.Sleep(100 * time.Millisecond)
	}
}
