// A single-page app as the manual of oidc-client-ts has it: tokens in localStorage, so that tabs share them, and
// automatic silent renewal with the refresh token. It keeps a story of what happened for the test to read.

const settings = await (await fetch('/settings.json')).json()
// Another registered client than the usual one, for this tab: /?client=ID
sessionStorage.client = new URLSearchParams(location.search).get('client') ?? sessionStorage.client ?? settings.client_id
const story = { user: null, renewed: 0, errors: [], signedOut: 0, refreshTokens: [] }

const mgr = new oidc.UserManager({
  ...settings,
  client_id: sessionStorage.client,
  redirect_uri: location.origin + '/callback',
  post_logout_redirect_uri: location.origin + '/',
  scope: 'openid profile email',
  userStore: new oidc.WebStorageStateStore({ store: localStorage }),
  loadUserInfo: true,
  accessTokenExpiringNotificationTimeInSeconds: 3,
})

function keep(user) {
  story.user = user && { profile: user.profile }
  if (user?.refresh_token && !story.refreshTokens.includes(user.refresh_token)) story.refreshTokens.push(user.refresh_token)
}

mgr.events.addUserLoaded((user) => { story.renewed++; keep(user) })
mgr.events.addSilentRenewError((err) => story.errors.push(String(err)))
mgr.events.addUserUnloaded(() => { story.signedOut++ })
mgr.events.addUserSignedOut(() => { story.signedOut++ })
mgr.events.addAccessTokenExpired(() => story.errors.push('the access token expired before it was renewed'))

if (location.pathname === '/callback') {
  await mgr.signinCallback().then(keep, (err) => story.errors.push(err.error ?? String(err)))
  history.replaceState(null, '', '/')
} else {
  keep(await mgr.getUser())
}

document.querySelector('#sign-in').addEventListener('click', () => mgr.signinRedirect())
document.querySelector('#sign-out').addEventListener('click', () => mgr.signoutRedirect())
window.mgr = mgr
window.story = story
