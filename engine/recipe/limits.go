package recipe

import (
	"bytes"
	"slices"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
)

// Limits of one recipe. HCL's parser and evaluator recurse: 100,000 nested "${" or a million operators in one expression
// overflow the stack, which Go cannot recover from. So depth is counted on tokens, in a loop, before anything is parsed.
const (
	MaxFileBytes        = 1 << 20 // of one file
	MaxEnvironmentBytes = 4 << 20 // of an environment file: some 25,000 nodes
	MaxNesting          = 64      // brackets, braces, parentheses, interpolations and template directives in one another
	MaxOperators        = 256     // operators, conditions and indexes in one expression: each is a level of its syntax tree
	MaxInstances        = 100_000 // blocks, counting one for each key of a for_each
	maxRefs             = 1_000_000
)

// checkLimits refuses a source that is too large to parse safely. The diagnostics stop at the first limit met. Where the
// source passes, it returns the bytes after which it can be cut, if there are any.
func checkLimits(source Source) ([]int, hcl.Diagnostics) {
	if source.environment && len(source.Bytes) > MaxEnvironmentBytes {
		top := hcl.Range{Filename: source.Name, Start: hcl.InitialPos, End: hcl.InitialPos}
		return nil, hcl.Diagnostics{mistake(top, "File too large", "%s has %d bytes; an environment file may have %d.", source.Name, len(source.Bytes), MaxEnvironmentBytes)}
	}
	if !source.environment && len(source.Bytes) > MaxFileBytes {
		top := hcl.Range{Filename: source.Name, Start: hcl.InitialPos, End: hcl.InitialPos}
		return nil, hcl.Diagnostics{mistake(top, "File too large",
			"%s has %d bytes; a file may have %d. Split it into several files.", source.Name, len(source.Bytes), MaxFileBytes)}
	}
	cuts, sure, doubt := pieces(source.Bytes)
	if sure {
		return cuts, nil
	}
	if diags := checkNesting(tokensOf(Source{Name: source.Name, Bytes: source.Bytes[:doubt]})); diags.HasErrors() {
		return nil, diags // no need to look at the rest
	}
	tokens := tokensOf(source)
	if place := openComment(tokens, len(source.Bytes)); place != nil {
		return nil, hcl.Diagnostics{mistake(*place, "Unclosed comment",
			`This comment is never closed. Write "*/" at its end, or begin it with "#" if it has one line.`)}
	}
	return nil, checkNesting(tokens)
}

const commentEnd = "\n*/"

// tokensOf lexes the source with a comment's end after it. Without that, HCL's lexer looks for the end of every "/*" again
// and again down to the last byte: 60 kB of them take five seconds.
func tokensOf(source Source) hclsyntax.Tokens {
	closed := append(slices.Clip(source.Bytes), commentEnd...)
	tokens, _ := hclsyntax.LexConfig(closed, source.Name, hcl.InitialPos) // the parser reports what is wrong with them
	return tokens
}

// openComment finds the comment that only tokensOf has closed.
func openComment(tokens hclsyntax.Tokens, size int) *hcl.Range {
	for _, token := range tokens {
		if token.Type == hclsyntax.TokenComment && token.Range.End.Byte == size+len(commentEnd) && bytes.HasPrefix(token.Bytes, []byte("/*")) {
			place := token.Range
			place.End = place.Start
			return &place
		}
	}
	return nil
}

// A level is an open bracket, string or template directive, and how many operators stand directly in it so far.
type level struct {
	close     hclsyntax.TokenType
	opened    hcl.Range
	counts    bool // against MaxNesting: a string does not, what is interpolated in it does
	operators int
}

// checkNesting walks the tokens once. A closing token closes only what it matches, so a broken file never looks
// shallower here than it is to the parser.
func checkNesting(tokens hclsyntax.Tokens) hcl.Diagnostics {
	levels := []level{{}}
	depth := 0
	for i, token := range tokens {
		top := &levels[len(levels)-1]
		if token.Type == hclsyntax.TokenOBrack {
			top.operators++ // x[0][0][0] is as deep a tree as x+0+0+0
		}
		if top.operators > MaxOperators {
			return hcl.Diagnostics{tooLong(token.Range)}
		}
		if token.Type == top.close && top.close != 0 {
			if top.counts {
				depth--
			}
			levels = levels[:len(levels)-1]
			if token.Type == hclsyntax.TokenTemplateSeqEnd {
				levels, depth = directive(levels, depth, tokens, i)
			}
		} else if closer, counts := closes(token.Type); closer != 0 {
			levels = append(levels, level{close: closer, opened: token.Range, counts: counts})
			if counts {
				depth++
			}
		} else if separates(token.Type) {
			top.operators = 0
		} else if operates(token.Type) {
			top.operators++
		}
		if depth > MaxNesting {
			return hcl.Diagnostics{tooDeep(levels, token.Range)}
		}
	}
	return nil
}

func tooLong(place hcl.Range) *hcl.Diagnostic {
	return mistake(place, "Expression too long",
		"An expression may have %d operators. Name parts of it in a locals block, or use a list and a function.", MaxOperators)
}

func tooDeep(levels []level, place hcl.Range) *hcl.Diagnostic {
	outermost := place
	for _, l := range levels {
		if l.counts {
			outermost = l.opened
			break
		}
	}
	return mistake(place, "Nested too deeply",
		"Brackets, braces and interpolations may stand %d deep in one another. The outermost one that is still open is at %s; "+
			"close it, or name parts of the expression in a locals block.", MaxNesting, at(outermost))
}

// endsDirective is no token of HCL's: it marks the level that "%{ if" opens and "%{ endif" closes.
const endsDirective hclsyntax.TokenType = -1

// directive looks at the template sequence that ends with token i: %{ if and %{ for hold what follows until their end.
func directive(levels []level, depth int, tokens hclsyntax.Tokens, i int) ([]level, int) {
	first := i
	for first > 0 && i-first < 4096 && tokens[first].Type != hclsyntax.TokenTemplateControl && tokens[first].Type != hclsyntax.TokenTemplateInterp {
		first--
	}
	if tokens[first].Type != hclsyntax.TokenTemplateControl || first+1 >= len(tokens) {
		return levels, depth
	}
	switch string(tokens[first+1].Bytes) {
	case "if", "for":
		return append(levels, level{close: endsDirective, opened: tokens[first].Range, counts: true}), depth + 1
	case "endif", "endfor":
		if levels[len(levels)-1].close == endsDirective {
			return levels[:len(levels)-1], depth - 1
		}
	}
	return levels, depth
}

// closes returns the token that closes what the given one opens, or 0, and whether it counts as nesting.
func closes(open hclsyntax.TokenType) (hclsyntax.TokenType, bool) {
	switch open {
	case hclsyntax.TokenOBrace:
		return hclsyntax.TokenCBrace, true
	case hclsyntax.TokenOBrack:
		return hclsyntax.TokenCBrack, true
	case hclsyntax.TokenOParen:
		return hclsyntax.TokenCParen, true
	case hclsyntax.TokenTemplateInterp, hclsyntax.TokenTemplateControl:
		return hclsyntax.TokenTemplateSeqEnd, true
	case hclsyntax.TokenOQuote:
		return hclsyntax.TokenCQuote, false
	case hclsyntax.TokenOHeredoc:
		return hclsyntax.TokenCHeredoc, false
	}
	return 0, false
}

func separates(t hclsyntax.TokenType) bool {
	return t == hclsyntax.TokenComma || t == hclsyntax.TokenEqual
}

func operates(t hclsyntax.TokenType) bool {
	switch t {
	case hclsyntax.TokenPlus, hclsyntax.TokenMinus, hclsyntax.TokenStar, hclsyntax.TokenSlash, hclsyntax.TokenPercent,
		hclsyntax.TokenBang, hclsyntax.TokenQuestion, hclsyntax.TokenAnd, hclsyntax.TokenOr, hclsyntax.TokenEqualOp,
		hclsyntax.TokenNotEqual, hclsyntax.TokenLessThan, hclsyntax.TokenLessThanEq, hclsyntax.TokenGreaterThan,
		hclsyntax.TokenGreaterThanEq, hclsyntax.TokenDot:
		return true
	}
	return false
}
