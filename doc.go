// Package heirloom is the root of the module and holds no code: what it refuses to know is everything. The server is
// in cmd/heirloom; arch_test.go beside this file keeps the house rules of the whole tree.
package heirloom
