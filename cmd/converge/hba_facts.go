package main

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"converge/resources/hba"
)

// hostFacts answers, from this host, what rules depend on outside of the file.
type hostFacts struct {
	a          *app
	ctx        context.Context
	interfaces []netip.Prefix
	names      map[netip.Addr]string
	silent     bool // the name service did not answer: it is not asked again
}

func (a *app) newHostFacts(ctx context.Context) *hostFacts {
	h := &hostFacts{a: a, ctx: ctx, names: map[netip.Addr]string{}}
	var err error
	if h.interfaces, err = interfaces(); err != nil {
		fmt.Fprintf(a.stderr, "converge: note: %v: samehost and samenet match nobody\n", err)
	}
	return h
}

// of are the facts for one client. A user is a member of the role of the own name.
func (h *hostFacts) of(c hbaClient) hba.Facts {
	return hba.Facts{
		Member:     func(user, role string) bool { return user == role || slices.Contains(c.memberOf, role) },
		Interfaces: h.interfaces,
		HostName:   h.hostName,
	}
}

// hostName is asked only when a rule names a host. A name counts when it leads back to the address, as for the server.
func (h *hostFacts) hostName(address netip.Addr) string {
	if name, known := h.names[address]; known || h.silent {
		return name
	}
	ctx, cancel := context.WithTimeout(h.ctx, lookupTime)
	defer cancel()
	name, err := lookupBothWays(ctx, address)
	if ctx.Err() != nil {
		h.silent = true
		fmt.Fprintf(h.a.stderr, "converge: note: the name service did not answer within %s: rules with names of hosts match nobody\n", lookupTime)
	} else if err != nil {
		fmt.Fprintf(h.a.stderr, "converge: note: %s has no name (%v): rules with names of hosts do not match it\n", address, err)
	}
	h.names[address] = name
	return name
}

// lookupBothWays gives the name of an address, if the name has that address.
func lookupBothWays(ctx context.Context, address netip.Addr) (string, error) {
	names, err := net.DefaultResolver.LookupAddr(ctx, address.WithZone("").String())
	if err != nil {
		return "", err
	}
	name := strings.TrimSuffix(names[0], ".")
	back, err := net.DefaultResolver.LookupNetIP(ctx, "ip", name)
	if err != nil {
		return "", err
	}
	for _, b := range back {
		if b.Unmap() == address.WithZone("") || b == address.WithZone("") {
			return name, nil
		}
	}
	return "", fmt.Errorf("%s, the name of it, leads elsewhere", name)
}
