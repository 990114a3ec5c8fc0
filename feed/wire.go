package feed

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// MediaType is the feed's media type: server-sent events (WHATWG HTML §9.2).
const MediaType = "text/event-stream"

// Scope is what an access token needs to read the feed.
const Scope = "revocations"

// The events of the stream. A reader that connects without a position, or with one the
// server no longer has, gets Reset, then every live entry, then Ready; one that resumes
// gets what it missed, then Ready. From then on entries come as they happen, and Beat
// at least every few seconds, also when nothing happens: a reader that hears nothing
// knows that it knows nothing.
const (
	Reset   = "reset"   // forget everything: a snapshot follows; data: Mark
	Revoked = "revoked" // data: Entry
	Ready   = "ready"   // all that happened up to now has been told; data: Mark
	Beat    = "beat"    // data: Mark
)

// Frame is one event of the stream.
type Frame struct {
	Event string
	ID    string // position, for Last-Event-ID; "" = unchanged
	Entry Entry  // of Revoked
	Mark  Mark   // of Reset, Ready and Beat
}

// Position is where a reader is: which history, and how far. History changes when the
// server's past was changed under it, as by a restored backup.
type Position struct {
	History string
	Seq     uint64
}

// String writes the position as an event id.
func (p Position) String() string { return p.History + "." + strconv.FormatUint(p.Seq, 10) }

// ParsePosition reads what String wrote; ok is false for anything else.
func ParsePosition(s string) (p Position, ok bool) {
	i := bytes.LastIndexByte([]byte(s), '.')
	if i <= 0 || len(s) > 128 {
		return Position{}, false
	}
	seq, err := strconv.ParseUint(s[i+1:], 10, 64)
	p = Position{History: s[:i], Seq: seq}
	if err != nil || p.String() != s { // 07 is no way to write 7
		return Position{}, false
	}
	return p, true
}

// AppendFrame encodes a frame.
func AppendFrame(b []byte, f Frame) ([]byte, error) {
	if strings.ContainsAny(f.ID, "\r\n\x00") {
		return b, fmt.Errorf("feed: %q is no event id", f.ID)
	}
	var data []byte
	var err error
	switch f.Event {
	case Revoked:
		if err := f.Entry.Check(); err != nil {
			return b, err
		}
		data, err = json.Marshal(f.Entry)
	case Reset, Ready, Beat:
		data, err = json.Marshal(f.Mark)
	default:
		return b, fmt.Errorf("feed: there is no event %q", f.Event)
	}
	if err != nil {
		return b, fmt.Errorf("feed: write frame: %v", err)
	}
	b = append(b, "event: "...)
	b = append(b, f.Event...)
	if f.ID != "" {
		b = append(b, "\nid: "...)
		b = append(b, f.ID...)
	}
	b = append(b, "\ndata: "...)
	b = append(b, data...)
	return append(b, "\n\n"...), nil
}

// Reader reads frames from a stream.
type Reader struct {
	r *bufio.Reader
}

// NewReader returns a Reader.
func NewReader(r io.Reader) *Reader { return &Reader{bufio.NewReaderSize(r, 8<<10)} }

// maxLine bounds a line of the stream, in bytes.
const maxLine = 8 << 10

var errLong = errors.New("feed: a line is longer than 8 KiB")

// Next returns the next frame; io.EOF when the stream ends between frames. Events that
// are not known are an error: they may be the ones that matter.
func (r *Reader) Next() (Frame, error) {
	var f Frame
	var data []byte
	for {
		line, err := r.r.ReadSlice('\n')
		if errors.Is(err, bufio.ErrBufferFull) {
			return Frame{}, errLong
		}
		if err == io.EOF && (len(line) > 0 || f.Event != "" || data != nil) {
			return Frame{}, io.ErrUnexpectedEOF
		}
		if err != nil {
			return Frame{}, err
		}
		line = bytes.TrimRight(line, "\r\n")
		if len(line) == 0 {
			if f.Event == "" && data == nil {
				continue
			}
			return f.decode(data)
		}
		if line[0] == ':' {
			continue // a comment
		}
		name, value, _ := bytes.Cut(line, []byte(":"))
		value = bytes.TrimPrefix(value, []byte(" "))
		switch string(name) {
		case "event":
			f.Event = string(value)
		case "id":
			f.ID = string(value)
		case "data":
			data = append(data, value...)
		}
		if len(data) > maxLine {
			return Frame{}, errLong
		}
	}
}

func (f Frame) decode(data []byte) (Frame, error) {
	var err error
	switch f.Event {
	case Revoked:
		f.Entry, err = decodeEntry(data)
	case Reset, Ready, Beat:
		if err = json.Unmarshal(data, &f.Mark); err != nil {
			err = fmt.Errorf("feed: read %s: %v", f.Event, err)
		}
	default:
		err = fmt.Errorf("feed: event %q is not known: update the verifier", f.Event)
	}
	if err != nil {
		return Frame{}, err
	}
	return f, nil
}
