package recipe

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"
)

// String returns the address as recipes and reports write it: user_key.alice, or user_key.staff["alice"].
func (a Address) String() string {
	if !a.HasKey {
		return a.Type + "." + a.Name
	}
	return a.Type + "." + a.Name + "[" + strconv.Quote(a.Key) + "]"
}

// ParseAddress reads what String writes. Its error names the text and the form that is wanted.
func ParseAddress(text string) (Address, error) {
	wrong := fmt.Errorf("%q is not an address: write TYPE.NAME or TYPE.NAME[\"KEY\"]", text)
	kind, rest, found := strings.Cut(text, ".")
	if !found {
		return Address{}, wrong
	}
	name, key, hasKey := strings.Cut(rest, "[")
	if checkLabel(kind) != nil || checkLabel(name) != nil {
		return Address{}, wrong
	}
	if !hasKey {
		return Address{Type: kind, Name: name}, nil
	}
	quoted, closed := strings.CutSuffix(key, "]")
	unquoted, err := strconv.Unquote(quoted)
	if !closed || err != nil || !strings.HasPrefix(quoted, `"`) {
		return Address{}, wrong
	}
	return Address{Type: kind, Name: name, Key: unquoted, HasKey: true}, nil
}

// Compare orders addresses by type, name and key.
func (a Address) Compare(b Address) int {
	return cmp.Or(cmp.Compare(a.Type, b.Type), cmp.Compare(a.Name, b.Name), cmp.Compare(a.Key, b.Key))
}

// checkLabel says what is wrong with the name of a block, a variable or a window.
func checkLabel(label string) error {
	const form = "a name has letters, digits, _ and -, begins with a letter or _, and has at most 63 bytes"
	if label == "" {
		return fmt.Errorf("the name is empty: %s", form)
	}
	if len(label) > 63 {
		return fmt.Errorf("the name has %d bytes: %s", len(label), form)
	}
	for i, r := range label {
		letter := r == '_' || 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z'
		later := r == '-' || '0' <= r && r <= '9'
		if !letter && (!later || i == 0) {
			return fmt.Errorf("%q cannot stand in a name here: %s", r, form)
		}
	}
	return nil
}
