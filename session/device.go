package session

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

const maxLabel = 60

// Device names a browser or program for its owner: "Firefox on Linux", "Chrome
// on Android", "curl". The answer is never empty, has at most 60 bytes and is
// plain text without control characters or any of < > & " ', whatever was sent.
// It is a help for people and proves nothing: anybody can send any user agent.
func Device(userAgent string) string {
	ua := bounded(userAgent)
	program := browser(ua)
	if program == "" {
		return product(ua)
	}
	if system := system(ua); system != "" {
		return program + " on " + system
	}
	return program
}

// browser looks for the most telling name first: nearly every browser also
// says Mozilla and Safari, and those built on Chromium say Chrome.
func browser(ua string) string {
	for _, b := range []struct{ sign, name string }{
		{"SamsungBrowser/", "Samsung Internet"},
		{"EdgA/", "Edge"},
		{"EdgiOS/", "Edge"},
		{"Edg/", "Edge"},
		{"OPR/", "Opera"},
		{"OPT/", "Opera"},
		{"Vivaldi/", "Vivaldi"},
		{"YaBrowser/", "Yandex Browser"},
		{"DuckDuckGo/", "DuckDuckGo"},
		{"Ddg/", "DuckDuckGo"},
		{"Brave/", "Brave"},
		{"Electron/", "Desktop app"},
		{"HeadlessChrome/", "Headless Chrome"},
		{"FxiOS/", "Firefox"},
		{"Focus/", "Firefox Focus"},
		{"Firefox/", "Firefox"},
		{"CriOS/", "Chrome"},
		{"GSA/", "Google app"},
		{"; wv)", "App web view"},
		{"Chromium/", "Chromium"},
		{"Chrome/", "Chrome"},
		{"Trident/", "Internet Explorer"},
		{"MSIE ", "Internet Explorer"},
	} {
		if strings.Contains(ua, b.sign) {
			return b.name
		}
	}
	if strings.Contains(ua, "Safari/") && strings.Contains(ua, "Version/") {
		return "Safari"
	}
	if strings.HasPrefix(ua, "Mozilla/") && system(ua) != "" {
		if strings.Contains(ua, "AppleWebKit/") && strings.Contains(ua, "Mobile/") {
			return "App web view"
		}
		return "Browser"
	}
	return ""
}

func system(ua string) string {
	for _, s := range []struct{ sign, name string }{
		{"iPhone", "iPhone"},
		{"iPad", "iPad"},
		{"Android", "Android"},
		{"CrOS", "ChromeOS"},
		{"Windows", "Windows"},
		{"Macintosh", "macOS"},
		{"Mac OS X", "macOS"},
		{"FreeBSD", "FreeBSD"},
		{"OpenBSD", "OpenBSD"},
		{"Linux", "Linux"},
		{"X11", "Linux"},
	} {
		if strings.Contains(ua, s.sign) {
			return s.name
		}
	}
	return ""
}

// product is the name before the first slash: "curl/8.5.0" is curl.
func product(ua string) string {
	name, _, _ := strings.Cut(strings.TrimSpace(ua), "/")
	name, _, _ = strings.Cut(name, "(")
	var b strings.Builder
	for _, r := range name {
		if !unicode.IsPrint(r) || strings.ContainsRune(`<>&"'`+"`\uFFFD", r) {
			continue
		}
		if b.Len()+utf8.RuneLen(r) > maxLabel {
			break
		}
		b.WriteRune(r)
	}
	label := strings.TrimSpace(b.String())
	switch label {
	case "":
		return "Unknown device"
	case "Go-http-client":
		return "Go program"
	case "python-requests", "python-httpx", "Python-urllib":
		return "Python program"
	case "node", "undici", "axios", "node-fetch":
		return "Node program"
	case "okhttp", "Dalvik":
		return "Android app"
	}
	return label
}
