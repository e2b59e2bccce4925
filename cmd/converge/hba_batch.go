package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
)

// batchLimit is the largest batch, in bytes.
const batchLimit = 256 << 20

// readCases reads a batch: a file, or - for standard input. Every line is a case, or the reading fails and tells of each
// line that is none.
func readCases(name string, stdin io.Reader) ([]hbaClient, error) {
	text, err := readBatch(name, stdin)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, cause(err))
	}
	var cases []hbaClient
	var wrong []string
	for i, line := range bytes.Split(bytes.TrimRight(text, " \t\r\n"), []byte("\n")) {
		c, err := parseCase(line)
		if err != nil {
			wrong = append(wrong, fmt.Sprintf("%s:%d: %v", name, i+1, err))
		}
		c.place = fmt.Sprintf("%s:%d", name, i+1)
		cases = append(cases, c)
	}
	if len(wrong) > 0 {
		return nil, fmt.Errorf("%s of the batch cannot be read, and none was answered\n  %s", count(len(wrong), "line", "lines"), strings.Join(wrong, "\n  "))
	}
	return cases, nil
}

func readBatch(name string, stdin io.Reader) ([]byte, error) {
	in := stdin
	if name != "-" {
		f, err := openRegular(name)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		in = f
	}
	text, err := io.ReadAll(io.LimitReader(in, batchLimit+1))
	switch {
	case err != nil:
		return nil, err
	case len(text) > batchLimit:
		return nil, fmt.Errorf("it is larger than %d MB", batchLimit>>20)
	case len(bytes.TrimSpace(text)) == 0:
		return nil, errors.New("there is no case in it")
	}
	return text, nil
}

// parseCase reads one case. It is stricter than encoding/json: an unknown key, a key in another case or twice, and null
// would be an answer to another question than the one that was meant.
func parseCase(line []byte) (hbaClient, error) {
	var c hbaClient
	from := ""
	fields := map[string]any{
		"user": &c.user, "database": &c.database, "from": &from, "ssl": &c.tls, "cert": &c.cert, "gss": &c.gss,
		"replication": &c.replication, "member_of": &c.memberOf,
	}
	if err := parseObject(line, fields); err != nil {
		return c, err
	}
	if from == "" {
		return c, errors.New(`"from" is missing: write an address, or "local" for the unix socket`)
	}
	if c.tls && c.gss {
		return c, errors.New(`"ssl" and "gss": a connection is encrypted by one of them at most`)
	}
	var err error
	if c.from, err = parseFrom(from); err != nil {
		return c, fmt.Errorf("\"from\": %w", err)
	}
	return c, nil
}

// parseObject reads a JSON object whose keys are those of fields.
func parseObject(line []byte, fields map[string]any) error {
	d := json.NewDecoder(bytes.NewReader(line))
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return errors.New("it is no JSON object")
	}
	var seen []string
	for d.More() {
		t, err := d.Token()
		if err != nil {
			return notJSON(err)
		}
		key := t.(string) // the decoder takes nothing else for a key
		target, known := fields[key]
		switch {
		case !known:
			return fmt.Errorf("there is no %q in a case: user, database, from, ssl, cert, gss, replication and member_of are", key)
		case slices.Contains(seen, key):
			return fmt.Errorf("%q is there twice", key)
		}
		seen = append(seen, key)
		var value json.RawMessage
		if err := d.Decode(&value); err != nil {
			return notJSON(err)
		}
		if err := decodeAs(value, target); err != nil {
			return fmt.Errorf("%q has to be %w", key, err)
		}
	}
	if _, err := d.Token(); err != nil {
		return notJSON(err)
	}
	if _, err := d.Token(); err != io.EOF {
		return errors.New("something follows the object")
	}
	return nil
}

func notJSON(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return errors.New("it is no JSON object: it ends too soon")
	}
	return fmt.Errorf("it is no JSON object: %w", err)
}

// decodeAs reads a value of just the type of the target. The error says what it has to be.
func decodeAs(value json.RawMessage, target any) error {
	null := string(value) == "null"
	switch target := target.(type) {
	case *string:
		if null || json.Unmarshal(value, target) != nil {
			return errors.New("a string")
		}
	case *bool:
		if null || json.Unmarshal(value, target) != nil {
			return errors.New("true or false")
		}
	case *[]string:
		var list []*string
		if null || json.Unmarshal(value, &list) != nil || slices.Contains(list, nil) {
			return errors.New("a list of strings")
		}
		for _, s := range list {
			*target = append(*target, *s)
		}
	default:
		panic(fmt.Sprintf("a case has no field of type %T", target))
	}
	return nil
}
