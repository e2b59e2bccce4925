package hba

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// addresses are the dimension of where clients come from. A member is three things: a network, of which it is in no narrower
// one; a mark, like the name of its host; and whether it is one of the server's own addresses or networks. The numbers of
// the members are those of the networks, once for each combination of the two others, so what a network holds is a interval
// in each of these blocks.
type addresses struct {
	nets   []subnet // in the order of a walk through the tree; 0 is the root, any other address
	marks  []mark   // 0 is none
	near   []near   // 0 is none
	there  []bool   // whether there is an address that is only this member
	texts  []string // the members as they are printed
	limits []string
}

// A subnet is a network of the tree.
type subnet struct {
	prefix  netip.Prefix   // the zero Prefix: all addresses
	inside  []netip.Prefix // the networks right below it, in order
	above   int32          // the number of the one that it is right below; -1: the root's
	high    int32          // the number after the last one below it
	example netip.Addr     // an address in it and in none below; the zero Addr: there is none
}

// A mark is what an address can have besides its network: a name of its host, or a mask that is no network's. An address has
// one of them at most; that is a limit.
type mark struct {
	label string
	name  string   // of the host
	odd   *network // the address and mask
}

// near is how near the server an address is.
type near networkKind

// maxAddresses bounds the members.
const maxAddresses = 1 << 22

func newAddresses(files []*File, also []netip.Prefix) *addresses {
	a := &addresses{marks: []mark{{}}, near: []near{near(anyAddress)}}
	networks := slices.Clone(also)
	for _, f := range files {
		for i := range f.Rules {
			networks = a.collect(&f.Rules[i], networks)
		}
	}
	a.plant(networks)
	slices.SortFunc(a.marks[1:], func(x, y mark) int { return strings.Compare(x.label, y.label) })
	slices.Sort(a.near)
	slices.Reverse(a.near[1:]) // samenet, then samehost, which is within it
	if len(a.nets)*len(a.marks)*len(a.near) > maxAddresses {
		a.limits = append(a.limits, fmt.Sprintf("%d names of hosts and %d networks: lines with names of hosts were not compared", len(a.marks)-1, len(a.nets)-1))
		a.marks = a.marks[:1]
	}
	a.there = make([]bool, a.count())
	for i := range a.there {
		block, n := a.place(int32(i))
		a.there[i] = a.example(block, n).IsValid()
		a.texts = append(a.texts, a.text(int32(i)))
	}
	return a
}

// collect notes what a rule says of addresses.
func (a *addresses) collect(r *Rule, networks []netip.Prefix) []netip.Prefix {
	n := &r.network
	switch {
	case r.Type == "local":
	case n.kind == numeric:
		if p, ok := n.prefix(); ok {
			return append(networks, p)
		}
		a.mark(mark{label: r.Address + " mask " + r.Netmask, odd: n})
	case n.kind == hostName:
		host := strings.ToLower(n.host)
		if strings.HasPrefix(host, ".") {
			a.mark(mark{label: "host " + host, name: "any-other" + host})
		} else {
			a.mark(mark{label: "host " + host, name: host})
		}
	case n.kind != anyAddress && !slices.Contains(a.near, near(n.kind)):
		a.near = append(a.near, near(n.kind))
	}
	return networks
}

func (a *addresses) mark(m mark) {
	if !slices.ContainsFunc(a.marks, func(o mark) bool { return o.label == m.label }) {
		a.marks = append(a.marks, m)
	}
}

// prefix is a numeric network, if its mask is that of one.
func (n *network) prefix() (netip.Prefix, bool) {
	bits := 0
	for bits < 8*len(n.mask) && n.mask[bits/8]&(0x80>>(bits%8)) != 0 {
		bits++
	}
	for i := bits; i < 8*len(n.mask); i++ {
		if n.mask[i/8]&(0x80>>(i%8)) != 0 {
			return netip.Prefix{}, false
		}
	}
	return netip.PrefixFrom(n.addr.WithZone(""), bits).Masked(), true
}

// plant makes the tree of networks.
func (a *addresses) plant(networks []netip.Prefix) {
	for i, p := range networks {
		networks[i] = p.Masked()
	}
	slices.SortFunc(networks, comparePrefixes)
	networks = slices.Compact(networks)
	a.nets = append(a.nets, subnet{above: -1})
	above := []int32{0}
	for i, p := range networks {
		for len(above) > 1 && !holds(a.nets[above[len(above)-1]].prefix, p) {
			above = a.leave(above)
		}
		parent := &a.nets[above[len(above)-1]]
		parent.inside = append(parent.inside, p)
		a.nets = append(a.nets, subnet{prefix: p, above: above[len(above)-1]})
		above = append(above, int32(i+1))
	}
	for len(above) > 0 {
		above = a.leave(above)
	}
	for i := range a.nets {
		a.nets[i].example = a.nets[i].first(nil)
	}
}

func (a *addresses) leave(above []int32) []int32 {
	last := len(above) - 1
	a.nets[above[last]].high = int32(len(a.nets))
	return above[:last]
}

// comparePrefixes puts a network before those in it.
func comparePrefixes(p, q netip.Prefix) int {
	if c := p.Addr().Compare(q.Addr()); c != 0 {
		return c
	}
	return p.Bits() - q.Bits()
}

func holds(p, q netip.Prefix) bool { return p.Bits() <= q.Bits() && p.Contains(q.Addr()) }

// first is the first address that is in the network and in none of those below it, and that an odd mask holds, if there is
// one. The zero Addr: there is no such address.
func (n *subnet) first(odd *network) netip.Addr {
	if n.prefix.IsValid() {
		return firstIn(n.prefix, n.inside, odd)
	}
	v4 := firstIn(netip.PrefixFrom(netip.IPv4Unspecified(), 0), n.inside, odd)
	if v4.IsValid() {
		return v4
	}
	return firstIn(netip.PrefixFrom(netip.IPv6Unspecified(), 0), n.inside, odd)
}

func firstIn(p netip.Prefix, inside []netip.Prefix, odd *network) netip.Addr {
	at := p.Addr()
	for {
		if odd != nil {
			at = odd.from(at)
		}
		if !at.IsValid() || !p.Contains(at) {
			return netip.Addr{}
		}
		// The last one that does not begin behind the address is the only one that can hold it.
		i, found := slices.BinarySearchFunc(inside, at, func(q netip.Prefix, at netip.Addr) int { return q.Addr().Compare(at) })
		if !found {
			i--
		}
		if i < 0 || !inside[i].Contains(at) {
			return at
		}
		at = lastOf(inside[i]).Next()
	}
}

func lastOf(p netip.Prefix) netip.Addr {
	b := p.Addr().AsSlice()
	for i := p.Bits(); i < 8*len(b); i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	last, _ := netip.AddrFromSlice(b)
	return last
}

// from is the first address from at on that the network holds, whatever its mask is; the zero Addr: there is none.
func (n *network) from(at netip.Addr) netip.Addr {
	if at.BitLen() != n.addr.BitLen() {
		return netip.Addr{}
	}
	b, want := at.AsSlice(), n.addr.AsSlice()
	bit := func(b []byte, i int) bool { return b[i/8]&(0x80>>(i%8)) != 0 }
	wrong := 0
	for wrong < 8*len(b) && (!bit(n.mask, wrong) || bit(b, wrong) == bit(want, wrong)) {
		wrong++
	}
	turn := wrong // the bit to be raised; what is behind it starts anew
	if wrong < 8*len(b) && bit(b, wrong) {
		for turn--; turn >= 0 && (bit(n.mask, turn) || bit(b, turn)); turn-- {
		}
		if turn < 0 {
			return netip.Addr{}
		}
	}
	for i := turn; i < 8*len(b); i++ {
		b[i/8] &^= 0x80 >> (i % 8)
		if i == turn || bit(n.mask, i) && bit(want, i) {
			b[i/8] |= 0x80 >> (i % 8)
		}
	}
	out, _ := netip.AddrFromSlice(b)
	return out
}

// count is how many members there are.
func (a *addresses) count() int32 { return int32(len(a.nets) * len(a.marks) * len(a.near)) }

// everywhere tells whether intervals are all addresses.
func (a *addresses) everywhere(intervals []interval) bool {
	return len(intervals) == 1 && intervals[0] == interval{0, a.count()}
}

// place is the block and the network of a member.
func (a *addresses) place(id int32) (block, net int32) {
	n := int32(len(a.nets))
	return id / n, id % n
}

func (a *addresses) markOf(block int32) (at int32, m *mark) {
	at = block / int32(len(a.near))
	return at, &a.marks[at]
}

func (a *addresses) nearOf(block int32) (at int32, n near) {
	at = block % int32(len(a.near))
	return at, a.near[at]
}

// example is an address of a member; the zero Addr: there is none.
func (a *addresses) example(block, net int32) netip.Addr {
	n := &a.nets[net]
	if _, m := a.markOf(block); m.odd != nil {
		return n.first(m.odd)
	}
	return n.example
}

// intervals are the members that a rule is for. Those of the unix socket come from one place, which stands for all.
func (a *addresses) intervals(r *Rule) []interval {
	n := int32(len(a.nets))
	if r.Type == "local" {
		return []interval{{0, a.count()}}
	}
	of := []interval{{0, n}}
	if p, ok := r.network.prefix(); ok && r.network.kind == numeric {
		at, _ := slices.BinarySearchFunc(a.nets[1:], p, func(s subnet, p netip.Prefix) int { return comparePrefixes(s.prefix, p) })
		of = []interval{{int32(at) + 1, a.nets[at+1].high}}
	}
	var out []interval
	for block := range a.count() / n {
		here := of
		if !a.takes(&r.network, block) {
			here = a.whollyIn(&r.network)
		}
		for _, s := range here {
			out = addInterval(out, interval{block*n + s.low, block*n + s.high})
		}
	}
	return out
}

// whollyIn are the networks all of whose addresses an odd mask holds.
func (a *addresses) whollyIn(odd *network) (out []interval) {
	if _, ok := odd.prefix(); ok || odd.kind != numeric {
		return nil
	}
	for i, s := range a.nets[1:] {
		own := network{kind: numeric, addr: s.prefix.Addr(), mask: maskOf(s.prefix)}
		if odd.holds(own) {
			out = addInterval(out, interval{int32(i) + 1, int32(i) + 2})
		}
	}
	return out
}

func maskOf(p netip.Prefix) []byte {
	mask := make([]byte, p.Addr().BitLen()/8)
	for i := range p.Bits() {
		mask[i/8] |= 0x80 >> (i % 8)
	}
	return mask
}

// takes tells whether a network of a rule can hold members of a block.
func (a *addresses) takes(n *network, block int32) bool {
	_, m := a.markOf(block)
	_, nearness := a.nearOf(block)
	switch n.kind {
	case sameHost:
		return nearness == near(sameHost)
	case sameNet:
		return nearness != near(anyAddress)
	case hostName:
		client := &matcher{hostName: &m.name}
		return client.named(n.host)
	case numeric:
		if _, ok := n.prefix(); !ok {
			return m.odd != nil && m.odd.key() == n.key()
		}
	}
	return true
}

// told leaves out the shifts of members that there are none of, and those of members that are several things at once of
// which one alone tells.
func (a *addresses) told(shifts []shift) []shift {
	blocks := a.count() / int32(len(a.nets))
	if blocks > 1 {
		shifts = a.untold(a.inBlocks(shifts, blocks))
	}
	return slices.DeleteFunc(shifts, func(p shift) bool { return !a.somebody(p.interval) })
}

// plain tells whether an address is one thing only: a network.
func (a *addresses) plain() bool { return len(a.marks)*len(a.near) == 1 }

// somebody tells whether there are addresses in an interval.
func (a *addresses) somebody(s interval) bool { return slices.Contains(a.there[s.low:s.high], true) }

// inBlocks are the shifts of each block, in the numbers of the networks.
func (a *addresses) inBlocks(shifts []shift, blocks int32) [][]shift {
	n := int32(len(a.nets))
	out := make([][]shift, blocks)
	for _, p := range shifts {
		for p.low < p.high {
			block := p.low / n
			end := min(p.high, (block+1)*n)
			out[block] = append(out[block], shift{interval{p.low - block*n, end - block*n}, p.before, p.after})
			p.low = end
		}
	}
	return out
}

func (a *addresses) untold(blocks [][]shift) (out []shift) {
	n := int32(len(a.nets))
	for b, shifts := range blocks {
		block := int32(b)
		for _, part := range a.parts(block) {
			shifts = without(shifts, blocks[part])
		}
		if block > 0 && a.there[block*n] && len(shifts) > 0 && shifts[0].low == 0 {
			shifts = a.onlyMark(shifts)
		}
		for _, p := range shifts {
			out = append(out, shift{interval{p.low + block*n, p.high + block*n}, p.before, p.after})
		}
	}
	return out
}

// onlyMark leaves out what any other address with the same mark tells of: it is the first of the shifts.
func (a *addresses) onlyMark(shifts []shift) []shift {
	alone := shift{interval{0, 1}, shifts[0].before, shifts[0].after}
	return append([]shift{alone}, slices.DeleteFunc(slices.Clone(shifts), func(p shift) bool {
		return p.before == alone.before && p.after == alone.after
	})...)
}

// parts are the blocks whose members are a part of what those of a block are.
func (a *addresses) parts(block int32) (out []int32) {
	mark, _ := a.markOf(block)
	nearness, _ := a.nearOf(block)
	for other := range block {
		m, _ := a.markOf(other)
		n, _ := a.nearOf(other)
		if (m == mark || m == 0) && n <= nearness {
			out = append(out, other)
		}
	}
	return out
}

// labels are the members in some intervals.
func (a *addresses) labels(intervals []interval) (out []string) {
	for _, s := range intervals {
		for id := s.low; id < s.high; id++ {
			if a.there[id] {
				out = append(out, a.texts[id])
			}
		}
	}
	return out
}

func (a *addresses) text(id int32) string {
	block, net := a.place(id)
	var out []string
	if net > 0 {
		out = append(out, a.nets[net].prefix.String())
	}
	if _, m := a.markOf(block); m.label != "" {
		out = append(out, m.label)
	}
	switch _, n := a.nearOf(block); networkKind(n) {
	case sameHost:
		out = append(out, "samehost")
	case sameNet:
		out = append(out, "samenet")
	}
	if len(out) == 0 {
		return anyOther
	}
	return strings.Join(out, " and ")
}
