package server

import (
	"mime"
	"net/http"
	"net/url"
	"strings"
	"unicode/utf8"
)

// form is the parameters of a request, in the order they came. It is a list and not a
// map: requests have a handful.
type form []param

type param struct{ name, value string }

// maxParams bounds how many parameters a request may have.
const maxParams = 100

// readForm reads a urlencoded body strictly: right content type, bounded, well-formed
// UTF-8, no parameter twice but `resource`, nothing from the URL. RFC 6749 §3.2: an
// empty value counts as omitted, unknown parameters are ignored.
func readForm(r *http.Request) (form, error) {
	if r.URL.RawQuery != "" {
		return nil, invalidRequest("parameters belong in the body, not in the URL")
	}
	if err := checkFormType(r.Header); err != nil {
		return nil, err
	}
	body, err := readBody(r)
	if err != nil {
		return nil, err
	}
	return parseForm(string(body))
}

func checkFormType(h http.Header) error {
	if enc := h.Get("Content-Encoding"); enc != "" && enc != "identity" {
		return &oauthError{status: http.StatusUnsupportedMediaType, code: "invalid_request", text: "a Content-Encoding is not accepted"}
	}
	ct := h["Content-Type"]
	if len(ct) == 1 && ct[0] == "application/x-www-form-urlencoded" {
		return nil
	}
	wrong := &oauthError{status: http.StatusUnsupportedMediaType, code: "invalid_request", text: "the Content-Type must be application/x-www-form-urlencoded"}
	if len(ct) != 1 {
		return wrong
	}
	typ, params, err := mime.ParseMediaType(ct[0])
	if err != nil || typ != "application/x-www-form-urlencoded" {
		return wrong
	}
	if cs, ok := params["charset"]; ok && !strings.EqualFold(cs, "utf-8") {
		return wrong
	}
	return nil
}

// parseForm splits a urlencoded text.
func parseForm(text string) (form, error) {
	if text == "" {
		return nil, nil
	}
	f := make(form, 0, 8)
	for pair := range strings.SplitSeq(text, "&") {
		if pair == "" {
			continue
		}
		if len(f) == maxParams {
			return nil, invalidRequest("there are too many parameters")
		}
		name, value, _ := strings.Cut(pair, "=")
		name, err := url.QueryUnescape(name)
		if err != nil {
			return nil, invalidRequest("a parameter's name is not urlencoded")
		}
		value, err = url.QueryUnescape(value)
		if err != nil {
			return nil, invalidRequest("a parameter's value is not urlencoded")
		}
		if !utf8.ValidString(name) || !utf8.ValidString(value) || strings.ContainsRune(value, 0) || strings.ContainsRune(name, 0) {
			return nil, invalidRequest("a parameter is not UTF-8 text")
		}
		if name != "resource" {
			for _, p := range f {
				if p.name == name {
					return nil, invalidRequest("a parameter is there twice")
				}
			}
		}
		f = append(f, param{name, value})
	}
	return f, nil
}

// get returns a parameter's value, "" if it is missing or empty.
func (f form) get(name string) string {
	for _, p := range f {
		if p.name == name {
			return p.value
		}
	}
	return ""
}

// all returns every non-empty value of a parameter that may repeat.
func (f form) all(name string) []string {
	var vs []string
	for _, p := range f {
		if p.name == name && p.value != "" {
			vs = append(vs, p.value)
		}
	}
	return vs
}

// with returns the form with a parameter set; without with it removed.
func (f form) with(name, value string) form { return append(f.without(name), param{name, value}) }

func (f form) without(name string) form {
	g := make(form, 0, len(f)+1)
	for _, p := range f {
		if p.name != name {
			g = append(g, p)
		}
	}
	return g
}

// encode writes the form as a query.
func (f form) encode() string {
	var b strings.Builder
	for _, p := range f {
		if b.Len() > 0 {
			b.WriteByte('&')
		}
		b.WriteString(url.QueryEscape(p.name))
		b.WriteByte('=')
		b.WriteString(url.QueryEscape(p.value))
	}
	return b.String()
}
