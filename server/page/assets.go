package page

import (
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"fmt"
	"path"
	"strings"
)

//go:embed assets
var files embed.FS

// AssetPath is where assets are served, below Config.Base.
const AssetPath = "/assets/"

// Asset is a file that pages load.
type Asset struct {
	Name        string // with a digest of its content: page.0123456789ab.css
	ContentType string
	Body        []byte // do not change
	// Immutable says that the name was asked for with its digest, and the answer
	// may be cached for ever: Cache-Control: public, max-age=31536000, immutable.
	// Otherwise it was a plain name, and the browser has to ask again (no-cache).
	Immutable bool
}

type assets struct {
	byName map[string]Asset  // by both names
	hashed map[string]string // plain name → name with the digest
}

func loadAssets() (assets, error) {
	a := assets{byName: map[string]Asset{}, hashed: map[string]string{}}
	entries, err := files.ReadDir("assets")
	if err != nil {
		return assets{}, err
	}
	for _, e := range entries {
		body, err := files.ReadFile("assets/" + e.Name())
		if err != nil {
			return assets{}, err
		}
		ext := path.Ext(e.Name())
		kind := map[string]string{
			".css": "text/css; charset=utf-8",
			".js":  "text/javascript; charset=utf-8",
			".svg": "image/svg+xml",
		}[ext]
		if kind == "" {
			return assets{}, fmt.Errorf("asset %s: no content type for %q", e.Name(), ext)
		}
		sum := sha256.Sum256(body)
		name := strings.TrimSuffix(e.Name(), ext) + "." + hex.EncodeToString(sum[:6]) + ext
		asset := Asset{Name: name, ContentType: kind, Body: body}
		a.byName[e.Name()] = asset
		asset.Immutable = true
		a.byName[name] = asset
		a.hashed[e.Name()] = name
	}
	return a, nil
}

// Asset finds a file by the last part of its path, with or without the digest.
func (p *Pages) Asset(name string) (Asset, bool) {
	a, ok := p.assets.byName[name]
	return a, ok
}

// AssetURL is the path, with digest, of page.css, demo.css, form-post.js or
// logo.svg. It is an error to ask for anything else.
func (p *Pages) AssetURL(name string) (string, error) {
	hashed, ok := p.assets.hashed[name]
	if !ok {
		return "", fmt.Errorf("there is no asset %q", name)
	}
	return p.config.Base + AssetPath + hashed, nil
}
