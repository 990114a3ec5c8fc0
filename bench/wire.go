package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"time"
)

// conn is one keep-alive HTTP/1.1 connection, for one goroutine. It shares the cores with the server it measures, so
// it does only what the two servers' answers need: a Content-Length, no chunks, no redirects. It connects when there
// is something to send.
type conn struct {
	addr string
	c    net.Conn
	r    *bufio.Reader
	in   []byte
}

// patience bounds one request. A server that takes longer has failed.
const patience = 30 * time.Second

func newConn(addr string) *conn { return &conn{addr: addr} }

func (c *conn) close() {
	if c.c != nil {
		c.c.Close() // whatever was on its way is lost, which is what the caller wants or expects
		c.c = nil
	}
}

// send writes a request. After an error the connection is closed, and the next send makes a new one.
func (c *conn) send(request []byte) error {
	if c.c == nil {
		n, err := net.DialTimeout("tcp", c.addr, patience)
		if err != nil {
			return err
		}
		c.c = n
		if c.r == nil {
			c.r = bufio.NewReaderSize(n, 4096)
		} else {
			c.r.Reset(n)
		}
	}
	if err := c.c.SetDeadline(time.Now().Add(patience)); err != nil {
		c.close()
		return err
	}
	if _, err := c.c.Write(request); err != nil {
		c.close()
		return err
	}
	return nil
}

// receive reads an answer. The body is good until the next one.
func (c *conn) receive() (status int, body []byte, err error) {
	status, body, last, err := c.answer()
	if err != nil || last {
		c.close()
	}
	return status, body, err
}

func (c *conn) answer() (status int, body []byte, last bool, err error) {
	line, err := c.r.ReadSlice('\n')
	if err != nil {
		return 0, nil, false, err
	}
	if len(line) < len("HTTP/1.1 200") || !bytes.HasPrefix(line, []byte("HTTP/1.1 ")) {
		return 0, nil, false, fmt.Errorf("not an HTTP answer: %.40q", line)
	}
	if status, err = strconv.Atoi(string(line[9:12])); err != nil {
		return 0, nil, false, fmt.Errorf("not an HTTP status: %.40q", line)
	}
	length := -1
	for {
		line, err := c.r.ReadSlice('\n')
		if err != nil {
			return 0, nil, false, err
		}
		line = bytes.TrimRight(line, "\r\n")
		if len(line) == 0 {
			break
		}
		name, value, _ := bytes.Cut(line, []byte(":"))
		switch value = bytes.TrimSpace(value); {
		case bytes.EqualFold(name, []byte("Content-Length")):
			if length, err = strconv.Atoi(string(value)); err != nil || length < 0 || length > 1<<20 {
				return 0, nil, false, fmt.Errorf("Content-Length: %.40q", value)
			}
		case bytes.EqualFold(name, []byte("Connection")):
			last = bytes.EqualFold(value, []byte("close"))
		}
	}
	if length < 0 {
		return 0, nil, false, errors.New("an answer without a Content-Length")
	}
	if cap(c.in) < length {
		c.in = make([]byte, length)
	}
	body = c.in[:length]
	if _, err := io.ReadFull(c.r, body); err != nil {
		return 0, nil, false, err
	}
	return status, body, last, nil
}

// do sends a request and reads its answer.
func (c *conn) do(request []byte) (status int, body []byte, err error) {
	if err := c.send(request); err != nil {
		return 0, nil, err
	}
	return c.receive()
}

// caller is what all requests of one virtual client have in common.
type caller struct {
	host, path string
	agent      string // User-Agent
	clientID   string
	basic      string // user:password in base64 for a confidential client; "": public
}

// refresh appends a refresh request. key is the Idempotency-Key; "": none.
func (k *caller) refresh(b []byte, token, key string) []byte {
	n := len("grant_type=refresh_token&refresh_token=") + len(token)
	if k.basic == "" {
		n += len("&client_id=") + len(k.clientID)
	}
	b = k.head(b, n, key)
	b = append(append(b, "grant_type=refresh_token&refresh_token="...), token...)
	if k.basic == "" {
		b = append(append(b, "&client_id="...), k.clientID...)
	}
	return b
}

// form appends a request with any form.
func (k *caller) form(b []byte, form string) []byte {
	return append(k.head(b, len(form), ""), form...)
}

func (k *caller) head(b []byte, length int, key string) []byte {
	for _, s := range [...]string{"POST ", k.path, " HTTP/1.1\r\nHost: ", k.host, "\r\nUser-Agent: ", k.agent} {
		b = append(b, s...)
	}
	if k.basic != "" {
		b = append(append(b, "\r\nAuthorization: Basic "...), k.basic...)
	}
	if key != "" {
		b = append(append(b, "\r\nIdempotency-Key: "...), key...)
	}
	b = append(b, "\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: "...)
	b = strconv.AppendInt(b, int64(length), 10)
	return append(b, "\r\n\r\n"...)
}

// member returns a string member of a flat JSON object whose strings need no escapes, as tokens never do; "" if there
// is none.
func member(body []byte, name string) string {
	_, rest, ok := strings.Cut(string(body), `"`+name+`":"`)
	if !ok {
		return ""
	}
	value, _, ok := strings.Cut(rest, `"`)
	if !ok {
		return ""
	}
	return value
}
