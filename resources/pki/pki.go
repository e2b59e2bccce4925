// Package pki makes and judges what a PostgreSQL environment needs for TLS: one certificate authority, server
// certificates, client certificates, and their private keys.
//
// A caller's way through it: read the files of a node with ParsePrivateKey and ParseCertificate, ask Wrong (or
// WrongAuthority) what differs from what the recipe declares, and when there is anything, keep the key if it Fits, else make
// one with GenerateKey, and a certificate with Issue. Both agree: of a certificate that Issue has just returned, Wrong finds
// nothing wrong.
//
// The package knows no host: it reads no file and no clock. The time is an argument, and so is randomness, as far as Go
// allows. Since Go 1.26 crypto/ecdsa and crypto/rsa draw keys and signatures from the system's secure source and ignore
// the reader they are given (unless GODEBUG=cryptocustomrand=1). What a rand argument still decides here: serial numbers,
// the id in an authority's name, and Ed25519 keys. Give crypto/rand.Reader; a test that wants the same keys twice uses
// testing/cryptotest.
//
// # Clocks
//
// Clocks of hosts jump. Every certificate is therefore valid from three days before it was made (BackDate), so that on a
// host whose clock goes two days back nothing that was just made lies in the future, and nothing is made again. A
// certificate that lies further in the future is reported (NotYetValid); one made in its place is valid by the wrong clock
// and by the right one. By a clock that stands before the authority itself began, or before the year 2020, nothing is made
// at all.
package pki

import "time"

// Day is the unit in which recipes count validity.
const Day = 24 * time.Hour

// BackDate is how long before it was made a certificate begins to be valid. Five minutes were not enough in the field,
// a day is the least that was; three cover a clock that is set back by two days between runs.
const BackDate = 3 * Day

// leastAuthorityLife is what an authority must have left to issue anything: a certificate that lives less than a day has
// already ended for a host whose clock is a day ahead.
const leastAuthorityLife = Day

// RenewBefore returns how long before its end a certificate that is valid for this long is renewed when nothing else is
// declared: 30 days, or a third of the validity if that is less.
func RenewBefore(validity time.Duration) time.Duration {
	return min(30*Day, validity/3)
}
