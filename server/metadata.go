package server

import (
	"crypto/sha256"
	"encoding/base64"
	"net/http"

	"github.com/heirloom-auth/heirloom/user"
)

// metadata is both documents: RFC 8414 and OpenID Connect Discovery 1.0. Whatever it
// lists works, and what it does not list does not (8414-05).
func (s *Server) metadata(*http.Request, *call) (answer, error) {
	algs := make([]string, 0, 4)
	for _, a := range s.conf.Keys.Algs() {
		algs = append(algs, string(a))
	}
	auth := []string{"client_secret_basic", "client_secret_post", "none"}
	doc := map[string]any{
		"issuer":                                         s.conf.Issuer,
		"authorization_endpoint":                         s.conf.Issuer + "/oauth2/authorize",
		"token_endpoint":                                 s.conf.Issuer + "/oauth2/token",
		"revocation_endpoint":                            s.conf.Issuer + "/oauth2/revoke",
		"introspection_endpoint":                         s.conf.Issuer + "/oauth2/introspect",
		"userinfo_endpoint":                              s.conf.Issuer + "/oauth2/userinfo",
		"end_session_endpoint":                           s.conf.Issuer + "/oauth2/end_session",
		"jwks_uri":                                       s.conf.Issuer + "/oauth2/jwks",
		"response_types_supported":                       []string{"code"},
		"response_modes_supported":                       []string{"query", "form_post"},
		"grant_types_supported":                          []string{"authorization_code", "refresh_token", "client_credentials"},
		"code_challenge_methods_supported":               []string{"S256"},
		"token_endpoint_auth_methods_supported":          auth,
		"revocation_endpoint_auth_methods_supported":     auth,
		"introspection_endpoint_auth_methods_supported":  auth[:2],
		"scopes_supported":                               []string{"openid", "profile", "email", "address", "phone", "offline_access"},
		"subject_types_supported":                        []string{"public"},
		"id_token_signing_alg_values_supported":          algs,
		"claims_supported":                               append([]string{"sub", "iss", "aud", "exp", "iat", "auth_time", "nonce", "at_hash", "acr", "amr", "sid"}, user.ClaimNames()...),
		"claims_parameter_supported":                     true,
		"request_parameter_supported":                    false,
		"request_uri_parameter_supported":                false,
		"authorization_response_iss_parameter_supported": true,
		"prompt_values_supported":                        []string{"none", "login", "consent", "select_account"},
		"refresh_token_expiration_types_supported":       []string{"authorization", "token_timeout"},
		"status_list_aggregation_endpoint":               s.conf.Issuer + "/oauth2/status",
		"heirloom_revocations_endpoint":                  s.conf.Issuer + "/oauth2/revocations",
		// How safe a retry of a refresh is, for clients that can read it: with the same
		// Idempotency-Key it is answered with the same tokens until the successor is used.
		"heirloom_refresh_retry": "idempotency_key_until_successor_used",
	}
	a, err := jsonAnswer(0, doc)
	a.cache, a.etag = "public, max-age=300", bodyTag(a.body)
	return a, err
}

// jwks is the JWK Set. Keys are published a day before they sign, so an hour in a cache
// never misses one.
func (s *Server) jwks(*http.Request, *call) (answer, error) {
	body, etag := s.conf.Keys.JWKS()
	return answer{typ: "application/jwk-set+json", body: body, cache: "public, max-age=3600", etag: etag}, nil
}

// bodyTag is the entity tag of a body (RFC 9110 §8.8.3).
func bodyTag(body []byte) string {
	sum := sha256.Sum256(body)
	return `"` + base64.RawURLEncoding.EncodeToString(sum[:12]) + `"`
}
