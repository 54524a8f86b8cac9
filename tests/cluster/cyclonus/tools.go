//go:build tools

// Package cyclonus pins the tests of NetworkPolicy that are generated from its API.
package cyclonus

import (
	_ "github.com/mattfenwick/cyclonus/cmd/cyclonus"
)
