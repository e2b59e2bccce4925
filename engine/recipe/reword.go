package recipe

import (
	"slices"
	"strconv"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/zclconf/go-cty/cty"
)

// hints are the ways out that HCL's own messages leave unsaid, by their summary.
var hints = map[string]string{
	"Attribute redefined":                    "Remove one of them.",
	"Call to unknown function":               "Functions work on values only: none reads a file, the process's environment or the clock.",
	"Invalid block definition":               "If this is an argument, write an equals sign after its name: NAME = VALUE.",
	"Invalid expression":                     "Write a value here: text stands in quotes, a list in [ ], a map in { }.",
	"Invalid index":                          "The elements of a list are counted from 0; keys(...) gives those of a map.",
	"Operation failed":                       "Look at the values on both sides of the operator.",
	"Unsupported attribute":                  "Take the last name away, or name a value that has attributes.",
	"Invalid multi-line string":              "Most often a quote is missing at the end of the line.",
	"Invalid template interpolation value":   "Only text, numbers and booleans can stand in a text; for what may be null, write coalesce(VALUE, OTHER).",
	"Unclosed configuration block":           "Write a closing brace on a line of its own.",
	"Unterminated template string":           "Write a quote at its end.",
	"Missing newline after argument":         "Put the next argument on a line of its own.",
	"Missing newline after block definition": "Put what follows on a line of its own.",
}

// reworded adds the way out to HCL's own messages, and takes the stack trace out of one.
func reworded(diags hcl.Diagnostics) hcl.Diagnostics {
	for _, d := range diags {
		d.Detail, _, _ = strings.Cut(d.Detail, "\ngoroutine ") // a function that panicked; its first line says why
		if hint := hints[d.Summary]; hint != "" && !strings.HasSuffix(d.Detail, hint) && !strings.Contains(d.Detail, "Did you mean") {
			d.Detail = strings.TrimSpace(d.Detail + " " + hint)
		}
	}
	return diags
}

// withheld replaces what HCL says of an expression with a sensitive value in it: it can repeat the value.
func withheld(diags hcl.Diagnostics) hcl.Diagnostics {
	for _, d := range diags {
		d.Detail = "What is wrong with this expression is not shown, because a sensitive value is used in it. Try it with another value that is no secret."
		d.Expression, d.EvalContext = nil, nil
	}
	return diags
}

// redact takes the values of sensitive arguments out of the messages of a Config.
func redact(diags hcl.Diagnostics, content *values, sensitiveNames []string) {
	for _, given := range content.arguments {
		if !slices.Contains(sensitiveNames, given.argument.name) {
			continue
		}
		_ = cty.Walk(given.value, func(_ cty.Path, v cty.Value) (bool, error) {
			if isText(v) && v.AsString() != "" {
				for _, d := range diags {
					d.Summary = without(d.Summary, v.AsString())
					d.Detail = without(d.Detail, v.AsString())
				}
			}
			return true, nil
		})
	}
	for i := range content.blocks {
		redact(diags, &content.blocks[i].values, sensitiveNames)
	}
}

func without(message, secret string) string {
	escaped := strings.Trim(strconv.Quote(secret), `"`)
	return strings.ReplaceAll(strings.ReplaceAll(message, escaped, "(sensitive)"), secret, "(sensitive)")
}
