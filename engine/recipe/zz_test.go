package recipe

import (
	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"runtime"
	"syscall"
	"testing"
	"time"
)

func cpu() time.Duration {
	var u syscall.Rusage
	syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
func TestZZ(t *testing.T) {
	for _, n := range []int{1000, 10000, 10000, 20000} {
		s := manyBlocks(n)
		size := 0
		for _, x := range s {
			size += len(x.Bytes)
		}
		runtime.GC()
		c := cpu()
		w := time.Now()
		r, _ := Load(s, toyTypes)
		c1 := cpu()
		r.For(scopeFor(t, "app"))
		t.Log(n, len(s), size, "load cpu", c1-c, "for cpu", cpu()-c1, "wall", time.Since(w))
	}
}
func TestYY(t *testing.T) {
	s := manyBlocks(10000)
	for range 3 {
		runtime.GC()
		c := cpu()
		for _, x := range s {
			pieces(x.Bytes)
		}
		c1 := cpu()
		for _, x := range s {
			hclsyntax.ParseConfig(x.Bytes, "x", hcl.InitialPos)
		}
		c2 := cpu()
		for _, x := range s {
			b := x.Bytes
			for len(b) > 0 {
				n := min(len(b), 32<<10)
				for n < len(b) && string(b[n-2:n]) != "}\n" {
					n++
				}
				hclsyntax.ParseConfig(b[:n], "x", hcl.InitialPos)
				b = b[n:]
			}
		}
		c3 := cpu()
		t.Log("shallow", c1-c, "parse", c2-c1, "chunks", c3-c2)
	}
}
