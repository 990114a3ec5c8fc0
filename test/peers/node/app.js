// A single-page app as the manual of oidc-client-ts has it: tokens in localStorage, so that tabs share them, and
// automatic silent renewal with the refresh token. It keeps a story of what happened for the test to read.

const settings = await (await fetch('/settings.json')).json()
const story = { user: null, renewed: 0, errors: [], signedOut: 0, refreshTokens: [] }

const mgr = new oidc.UserManager({
  ...settings,
  redirect_uri: location.origin + '/callback',
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
  keep(await mgr.signinCallback())
  history.replaceState(null, '', '/')
} else {
  keep(await mgr.getUser())
}

document.querySelector('#sign-in').addEventListener('click', () => mgr.signinRedirect())
window.mgr = mgr
window.story = story
