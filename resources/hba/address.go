package hba

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// network is the address column: who may come, by where from.
type network struct {
	kind networkKind
	addr netip.Addr // numeric only
	mask []byte     // numeric only: 4 or 16 bytes; it need not be contiguous
	host string     // hostName only; a suffix begins with a dot

	written string // the column as it stands in the file
}

type networkKind int

const (
	anyAddress networkKind = iota // all
	sameHost
	sameNet
	numeric
	hostName
)

// parseAddress reads the address token. done is false when a mask has to follow in a column of its own.
func (s Server) parseAddress(t Token) (n network, done bool, message string) {
	switch {
	case t.Keyword("all"):
		return network{kind: anyAddress}, true, ""
	case t.Keyword("samehost"):
		return network{kind: sameHost}, true, ""
	case t.Keyword("samenet"):
		return network{kind: sameNet}, true, ""
	}
	text, bits, slash := strings.Cut(t.Text, "/")
	addr, ok := s.numericAddress(text)
	switch {
	case !ok && slash:
		return n, true, fmt.Sprintf("specifying both host name and CIDR mask is invalid: \"%s\"", t.Text)
	case !ok:
		return network{kind: hostName, host: text}, true, ""
	case !slash:
		return network{kind: numeric, addr: addr}, false, ""
	}
	mask, ok := cidrMask(bits, addr.BitLen())
	if !ok {
		return n, true, fmt.Sprintf("invalid CIDR mask in address \"%s\"", t.Text)
	}
	return network{kind: numeric, addr: addr, mask: mask}, true, ""
}

// parseMask reads the mask token of an address that had no /bits.
func (s Server) parseMask(n network, t Token) (network, string) {
	mask, ok := s.numericAddress(t.Text)
	if !ok {
		return n, fmt.Sprintf("invalid IP mask \"%s\": Name or service not known", t.Text)
	}
	if mask.BitLen() != n.addr.BitLen() {
		return n, "IP address and mask do not match"
	}
	n.mask = mask.AsSlice()
	return n, ""
}

// columns are the address and the mask as the view prints them.
func (n network) columns() (address, mask string) {
	switch n.kind {
	case anyAddress:
		return "all", ""
	case sameHost:
		return "samehost", ""
	case sameNet:
		return "samenet", ""
	case hostName:
		return n.host, ""
	}
	m, _ := netip.AddrFromSlice(n.mask)
	return printAddress(n.addr), printAddress(m)
}

// numericAddress reads an address as getaddrinfo does with AI_NUMERICHOST; what it does not take is a host name.
func (s Server) numericAddress(text string) (netip.Addr, bool) {
	if a, ok := inetAton(text); ok {
		return a, true
	}
	text, scope, scoped := strings.Cut(text, "%")
	a, err := netip.ParseAddr(text)
	if err != nil || !a.Is6() || scoped && !s.scope(a, scope) {
		return netip.Addr{}, false
	}
	return a, true
}

// scope tells whether the C library takes what follows the % of an address: a number, or an interface where the address is
// link-local.
func (s Server) scope(a netip.Addr, scope string) bool {
	if a.IsLinkLocalUnicast() || a.IsLinkLocalMulticast() {
		if s.Interface == nil && scope == "lo" || s.Interface != nil && s.Interface(scope) {
			return true
		}
	}
	_, err := strconv.ParseUint(scope, 10, 32)
	return err == nil && scope[0] >= '0' && scope[0] <= '9'
}

// inetAton reads an IPv4 address as inet_aton(3) does: one to four numbers, the last filling what is left, each decimal,
// octal with a leading 0, or hexadecimal with 0x. So 10 is 0.0.0.10 and 010.0.0.1 is 8.0.0.1.
func inetAton(text string) (netip.Addr, bool) {
	parts := strings.Split(text, ".")
	if len(parts) > 4 {
		return netip.Addr{}, false
	}
	var value uint64
	for i, p := range parts {
		n, ok := cNumber(p)
		bits := 8
		if i == len(parts)-1 {
			bits = 8 * (4 - i)
		}
		if !ok || n >= 1<<bits {
			return netip.Addr{}, false
		}
		value = value<<bits | n
	}
	return netip.AddrFrom4([4]byte{byte(value >> 24), byte(value >> 16), byte(value >> 8), byte(value)}), true
}

// cNumber reads a number as strtoul(3) does with base 0, beginning with a digit.
func cNumber(p string) (uint64, bool) {
	if p == "" || p[0] < '0' || p[0] > '9' {
		return 0, false
	}
	base := 10
	switch {
	case len(p) > 1 && (p[1] == 'x' || p[1] == 'X') && p[0] == '0':
		base, p = 16, p[2:]
		if strings.HasPrefix(p, "+") {
			return 0, false
		}
	case len(p) > 1 && p[0] == '0':
		base, p = 8, p[1:]
	}
	n, err := strconv.ParseUint(p, base, 64)
	return n, err == nil
}

// cidrMask reads what follows the slash as strtol(3) does: blanks and a sign before the number are taken.
func cidrMask(text string, size int) ([]byte, bool) {
	text = strings.TrimLeft(text, " \t\n\v\f\r")
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n < 0 || n > int64(size) {
		return nil, false
	}
	mask := make([]byte, size/8)
	for i := range int(n) {
		mask[i/8] |= 0x80 >> (i % 8)
	}
	return mask, true
}

// printAddress prints an address as inet_ntop(3) does: like netip, but addresses whose first 96 bits are zero end in the
// dotted form too.
func printAddress(a netip.Addr) string {
	if !a.Is6() || a.Is4In6() {
		return a.WithZone("").String()
	}
	b := a.As16()
	for _, c := range b[:12] {
		if c != 0 {
			return a.String()
		}
	}
	if b[12] == 0 && b[13] == 0 {
		return a.String()
	}
	return "::" + netip.AddrFrom4([4]byte(b[12:])).String()
}
