package hba

import (
	"fmt"
	"slices"
	"strings"
)

// A waiver is the comment at the end of a rule's own line in which the operator accepts a weaker demand than the rule
// makes, for the versions that have no words for what it asks:
//
//	hostssl all deploy 10.0.0.0/8 md5 clientcert=verify-full  # converge: accept clientcert=verify-ca
//
// It names that weaker demand to the letter and allows nothing else. Where the version can ask for all of it the waiver has
// no effect, so that one file serves several versions.
const waiver = "converge:"

// waivable are the demands that a waiver can name; each is an option's next weaker one.
var waivable = []string{"clientcert=verify-ca", "clientname=CN"}

// waiverOf is the comment that accepts these demands.
func waiverOf(demands ...string) string {
	return "# " + waiver + " accept " + strings.Join(demands, " ")
}

// waivers are the demands that the line's comment accepts. What follows another # is a comment of its own, for the reason or
// for something else. The error is about the first waiver that cannot be read.
func (l *Line) waivers() (accepted []string, err error) {
	if l.comment < 0 {
		return nil, nil
	}
	for comment := range strings.SplitSeq(l.content[l.comment:], "#") {
		text, ok := strings.CutPrefix(strings.TrimSpace(comment), waiver)
		if !ok {
			continue
		}
		demands, err := readWaiver(text)
		if err != nil {
			return nil, err
		}
		accepted = append(accepted, demands...)
	}
	return accepted, nil
}

// readWaiver reads what stands after "converge:".
func readWaiver(text string) (demands []string, err error) {
	words := strings.Fields(text)
	switch {
	case len(words) == 0:
		return nil, fmt.Errorf("nothing follows %q in the comment", waiver)
	case words[0] != "accept":
		return nil, fmt.Errorf("the comment says %q after %q, and a waiver begins with accept", words[0], waiver)
	case len(words) == 1:
		return nil, fmt.Errorf("the waiver accepts nothing")
	}
	for _, word := range words[1:] {
		if !slices.Contains(waivable, word) {
			return nil, fmt.Errorf("the waiver accepts %q, which is no demand that a waiver can name", word)
		}
	}
	return words[1:], nil
}

// refuseWaiver refuses a waiver that cannot be read, on every version: it would be taken for one.
func (t *translator) refuseWaiver(l *Line) {
	if _, err := l.waivers(); err != nil {
		t.problem(l.Number, fmt.Sprintf("write %s, or %s, and the reason behind another #; or remove it", waiverOf(waivable[0]), waiverOf(waivable[1])), "%s", err)
	}
}

// waived is the wording that is left of one that is a problem here, when the line accepts the weaker demand.
func (w wording) waived(l *Line) wording {
	accepted, _ := l.waivers()
	if w.weaker == "" || !slices.Contains(accepted, w.weaker) {
		return w
	}
	return wording{text: w.text, why: fmt.Sprintf("%s: weaker than what the rule asks, and the line accepts it (%s)", w.why, waiverOf(w.weaker))}
}
