package memdb_test

import (
	"testing"
	"time"

	"github.com/heirloom-auth/heirloom/memdb"
	"github.com/heirloom-auth/heirloom/storetest"
)

func TestStore(t *testing.T) {
	storetest.Run(t, func(t *testing.T, now func() time.Time) storetest.Engine {
		return memdb.New(memdb.Config{Now: now})
	})
}
