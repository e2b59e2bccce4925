//go:build !faultpoints

// Package fault marks the durable steps of a run: each place where a crash leaves something behind on the disk.
//
// In the shipped binary a point is nothing at all. Built with the tag faultpoints, the process kills itself at the
// point whose number stands in CONVERGE_FAULT, so that a test can walk through every crash there is: N = 1, 2, 3 ...
// until the run gets through without reaching the point.
package fault

// Point marks a durable step. name says what has just been done, or is about to be.
func Point(name string) {}
