//go:build faultpoints

package fault

import (
	"fmt"
	"os"
	"strconv"
	"sync/atomic"
	"syscall"
)

var (
	reached atomic.Int64
	killAt  = number(os.Getenv("CONVERGE_FAULT"))
)

// Point counts the durable steps of this process and ends it, by SIGKILL, at the one whose number is in
// CONVERGE_FAULT. CONVERGE_FAULT_LOG names a file that gets a line a point, so that a test can tell what it hit.
func Point(name string) {
	n := reached.Add(1)
	if log := os.Getenv("CONVERGE_FAULT_LOG"); log != "" {
		f, err := os.OpenFile(log, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
		if err == nil {
			fmt.Fprintf(f, "%d %s\n", n, name)
			f.Close()
		}
	}
	if n == killAt {
		syscall.Kill(syscall.Getpid(), syscall.SIGKILL)
		select {} // the signal is on its way; nothing further must happen
	}
}

func number(s string) int64 {
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		return 0
	}
	return n
}
