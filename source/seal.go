package source

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
)

// sealed is the first line of a sealed record.
const sealed = "heirloom-sealed-1\n"

const saltSize = 32

// aead returns AES-256-GCM under a key of its own for each salt, so that no key ever
// sees enough random nonces to wear out, however many records there are.
func aead(key, salt []byte) (cipher.AEAD, error) {
	if len(key) != 32 {
		return nil, fmt.Errorf("the sealing key has %d bytes: it needs 32", len(key))
	}
	k, err := hkdf.Key(sha256.New, key, salt, "heirloom source seal 1", 32)
	if err != nil {
		return nil, err
	}
	block, err := aes.NewCipher(k)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCMWithRandomNonce(block)
}

// seal encrypts a record; about binds it to its place. Without a key it returns it as it is.
func seal(key, plain []byte, about string) ([]byte, error) {
	if key == nil {
		return plain, nil
	}
	out := make([]byte, len(sealed)+saltSize)
	copy(out, sealed)
	salt := out[len(sealed):]
	rand.Read(salt)
	g, err := aead(key, salt)
	if err != nil {
		return nil, err
	}
	return g.Seal(out, nil, plain, []byte(about)), nil
}

// unseal is the inverse. A store with a key refuses a record that is not sealed: whoever
// can write the file must not choose the session.
func unseal(key, b []byte, about string) ([]byte, error) {
	rest, is := bytes.CutPrefix(b, []byte(sealed))
	switch {
	case key == nil && is:
		return nil, errors.New("the token record is sealed: it needs its key")
	case key == nil:
		return b, nil
	case !is:
		return nil, errors.New("the token record is not sealed, but this store has a key")
	case len(rest) < saltSize:
		return nil, errors.New("the sealed token record is damaged: it is cut off")
	}
	g, err := aead(key, rest[:saltSize])
	if err != nil {
		return nil, err
	}
	plain, err := g.Open(nil, nil, rest[saltSize:], []byte(about))
	if err != nil {
		return nil, errors.New("the sealed token record is damaged, or sealed with another key")
	}
	return plain, nil
}
