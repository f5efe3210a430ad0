// Package measure reads what this process has cost.
package measure

import (
	"log"
	"syscall"
	"time"
)

// CPU is user and system time of all threads.
func CPU() time.Duration {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		log.Fatal(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}
