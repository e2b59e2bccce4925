package pki_test

import (
	"crypto/rand"
	"fmt"
	"net/netip"
	"time"

	"converge/resources/pki"
)

// What a run on the authority does for one database node, and what the next runs find.
func Example() {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	authority, authorityKey, err := pki.NewAuthority(rand.Reader, now, pki.AuthoritySpec{CommonName: "production CA", Validity: 3650 * pki.Day})
	if err != nil {
		fmt.Println(err)
		return
	}
	declared := pki.LeafSpec{CommonName: "db1", DNSNames: []string{"db1.internal"}, Usage: pki.Server, Validity: 365 * pki.Day}
	key, err := pki.GenerateKey(rand.Reader, declared.Algorithm)
	if err != nil {
		fmt.Println(err)
		return
	}
	cert, _, err := pki.Issue(rand.Reader, now, authority, authorityKey, key, declared)
	if err != nil {
		fmt.Println(err)
		return
	}
	check := func(now time.Time) {
		found := pki.Wrong(cert, key, authority, declared, now, pki.RenewBefore(declared.Validity))
		fmt.Printf("%d wrong %q\n", len(found), pki.Sentences(found))
	}
	check(now)
	declared.IPAddresses = []netip.Addr{netip.MustParseAddr("10.0.1.10")}
	check(now.Add(340 * pki.Day))
	// Output:
	// 0 wrong ""
	// 2 wrong "the names differ: missing 10.0.1.10; expires in 25 days, inside the renewal window of 30 days"
}
