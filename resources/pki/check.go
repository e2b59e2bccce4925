package pki

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// What crypto/x509 signs without a word, and what is therefore checked here first: a common name with a newline, a NUL or 80
// letters, an empty DNS name, an end before the beginning.

// mostName is ub-common-name of RFC 5280, appendix A, counted in bytes, which is never more generous than in characters.
const mostName = 64

// CheckCommonName says why a name cannot be the common name of a certificate, or nil. It has 1 to 64 bytes of printable
// UTF-8, without space at its ends: PostgreSQL compares it byte by byte with the name of a role.
func CheckCommonName(name string) error {
	switch {
	case name == "":
		return errors.New("the common name is empty")
	case len(name) > mostName:
		return fmt.Errorf("the common name has %d bytes, %d are allowed", len(name), mostName)
	case !utf8.ValidString(name):
		return fmt.Errorf("the common name %q is not UTF-8", name)
	case strings.TrimSpace(name) != name:
		return fmt.Errorf("the common name %q has space at its ends", name)
	}
	for _, r := range name {
		if !unicode.IsPrint(r) {
			return fmt.Errorf("the common name %q holds %U, which cannot be printed", name, r)
		}
	}
	return nil
}

// CheckDNSName says why a name cannot be a host name of a certificate, or nil: labels of 1 to 63 letters, digits, hyphens and
// underscores, joined by dots, 253 bytes in all (RFC 1035, 2.3.4; the underscore is no host name, but is met). Wildcards are
// refused: each node has a key of its own, and with a wildcard whoever takes one node's key can pose as every other node.
func CheckDNSName(name string) error {
	switch {
	case name == "":
		return errors.New("a host name is empty")
	case len(name) > 253:
		return fmt.Errorf("a host name has %d bytes, 253 are allowed", len(name))
	case strings.Contains(name, "*"):
		return fmt.Errorf("the host name %q is a wildcard: whoever takes the key of this node could pose as every other; name the node", name)
	case isAddress(name):
		return fmt.Errorf("the host name %q is an address; put it among the addresses", name)
	case strings.HasSuffix(name, "."):
		return fmt.Errorf("the host name %q ends in a dot; certificates hold names without it", name)
	}
	for label := range strings.SplitSeq(name, ".") {
		if err := checkLabel(name, label); err != nil {
			return err
		}
	}
	return nil
}

func isAddress(name string) bool {
	_, err := netip.ParseAddr(name)
	return err == nil
}

func checkLabel(name, label string) error {
	switch {
	case label == "":
		return fmt.Errorf("the host name %q has an empty part", name)
	case len(label) > 63:
		return fmt.Errorf("the host name %q has a part of %d bytes, 63 are allowed", name, len(label))
	case label[0] == '-' || label[len(label)-1] == '-':
		return fmt.Errorf("the host name %q has a part that begins or ends with a hyphen", name)
	}
	for _, r := range label {
		switch {
		case 'a' <= r && r <= 'z', 'A' <= r && r <= 'Z', '0' <= r && r <= '9', r == '-', r == '_':
		case r > unicode.MaxASCII:
			return fmt.Errorf("the host name %q is not ASCII; write it in its xn-- form", name)
		default:
			return fmt.Errorf("the host name %q holds %q", name, r)
		}
	}
	return nil
}

// CheckAddress says why an address cannot be one of a certificate, or nil. It names one host: no zone, not 0.0.0.0 or ::, no
// multicast group.
func CheckAddress(addr netip.Addr) error {
	switch {
	case !addr.IsValid():
		return errors.New("an address is empty")
	case addr.Zone() != "":
		return fmt.Errorf("the address %s has a zone, which a certificate cannot hold", addr)
	case addr.Unmap().IsUnspecified(), addr.Unmap().IsMulticast():
		return fmt.Errorf("the address %s is not that of one host", addr)
	}
	return nil
}

const (
	leastValidity = Day
	mostValidity  = 36500 * Day // a hundred years; a Duration ends at 292
)

// CheckValidity says why a certificate cannot be valid for this long, or nil: it is 1 day to 36500.
func CheckValidity(validity time.Duration) error {
	if validity < leastValidity || validity > mostValidity {
		return fmt.Errorf("a validity of %s is not between %s and %s", length(validity), length(leastValidity), length(mostValidity))
	}
	return nil
}

// firstYear: by a clock before it, which is one that lost its battery, nothing is made: an authority would be over before
// the clock is set, and is never replaced by itself.
const firstYear = 2020

func checkClock(now time.Time) error {
	if now.UTC().Year() < firstYear {
		return fmt.Errorf("the clock says %s, which is in the past; set it first", date(now))
	}
	return nil
}

// inOneLine joins what is wrong into one error, nil when nothing is.
func inOneLine(errs ...error) error {
	var said []string
	for _, err := range errs {
		if err != nil {
			said = append(said, err.Error())
		}
	}
	if len(said) == 0 {
		return nil
	}
	return errors.New(strings.Join(said, "; "))
}

// date writes a day for people, in UTC.
func date(t time.Time) string { return t.UTC().Format(time.DateOnly) }

// length writes a duration for people: in days, rounded down, below two days in hours, below two hours in minutes.
func length(d time.Duration) string {
	switch {
	case d == Day:
		return "1 day"
	case d >= 2*Day || d <= -2*Day:
		return fmt.Sprintf("%d days", d/Day)
	case d >= 2*time.Hour || d <= -2*time.Hour:
		return fmt.Sprintf("%d hours", d/time.Hour)
	}
	return fmt.Sprintf("%d minutes", d/time.Minute)
}
