//go:build race

package verify_test

// raceDetector allocates by itself.
const raceDetector = true
