// What users do at the pages of a running Sidegate, in a real browser: node flows.mjs ISSUER CLOCK_FILE
// FLOW in the environment is the name of one of them, where the others are not to be done.
// Prints a line for each step, and fails at the first that is not as it should be.

import {
  APP, HOUR_AND_MORE, ISSUER, USER, ask, atTheApp, back, browser, button, exchange, heading, isLoggedIn, leave, logIn, logOut, pass,
  someone, step, untilConsent,
} from './desk.mjs'

const flows = {
  async 'log in, consent, and the app has tokens'() {
    const page = await (await someone()).newPage()
    const asked = ask()
    await page.goto(asked.url)
    await logIn(page, { ...USER, password: 'wrong' })
    const alert = page.getByRole('alert')
    await alert.waitFor()
    step('a wrong password is refused', (await alert.textContent()) === 'The username or the password is wrong.')
    step('and the name need not be typed again', (await page.getByLabel('Username').inputValue()) === USER.username)
    step('nor is the password looked for', await page.getByLabel('Password').evaluate((field) => field === document.activeElement))
    await page.getByLabel('Password').fill(USER.password)
    await button(page, 'Log in').click()
    await heading(page, 'Allow access?').waitFor()
    const said = await page.getByRole('main').innerText()
    for (const shown of ['Corner Shop', '127.0.0.1', 'alice', 'Know that it is you', 'See your username', 'read']) {
      step(`consent tells of ${shown}`, said.includes(shown))
    }
    await button(page, 'Allow').click()
    const { code } = await back(page, asked)
    const tokens = await exchange(code, asked)
    step('the code makes tokens', tokens.status === 200 && Boolean(tokens.refresh_token && tokens.id_token))
    step('once', (await exchange(code, asked)).error === 'invalid_grant')
  },

  async 'deny'() {
    const page = await (await someone()).newPage()
    const asked = await untilConsent(page)
    await button(page, 'Deny').click()
    const { error, code } = await back(page, asked)
    step('who denies goes back without a code', error === 'access_denied' && code === undefined)
  },

  async 'log in as somebody else'() {
    const page = await (await someone()).newPage()
    const asked = await untilConsent(page)
    await button(page, 'Log in as somebody else').click()
    await logIn(page, { username: 'bob', password: 'builder' })
    await page.getByText('bob', { exact: true }).waitFor()
    await button(page, 'Allow').click()
    await back(page, asked)
    step('somebody else can log in')
  },

  async 'the back button'() {
    const page = await (await someone()).newPage()
    const posts = []
    page.on('request', (request) => request.method() === 'POST' && posts.push(new URL(request.url()).pathname))
    const asked = await untilConsent(page)
    await page.goBack()
    // Whoever is logged in is not asked for a password again.
    await heading(page, 'Allow access?').waitFor()
    step('back after login: the password is not asked for again')
    await page.goForward()
    await heading(page, 'Allow access?').waitFor()
    await page.reload()
    await heading(page, 'Allow access?').waitFor()
    await button(page, 'Allow').click()
    const first = await back(page, asked)
    await page.goBack()
    await heading(page, 'Allow access?').waitFor()
    step('back after consent: it can be given again')
    await button(page, 'Allow').click()
    const second = await back(page, asked)
    step('and gives another code', first.code !== second.code)
    for (const { code } of [first, second]) step('either makes tokens', (await exchange(code, asked)).status === 200)
    step('nothing was sent again', posts.join() === '/oauth/login,/oauth/consent,/oauth/consent')
  },

  async 'double clicks'() {
    const page = await (await someone()).newPage()
    const asked = ask()
    await page.goto(asked.url)
    await page.getByLabel('Username').fill(USER.username)
    await page.getByLabel('Password').fill(USER.password)
    await button(page, 'Log in').dblclick()
    await heading(page, 'Allow access?').waitFor()
    step('a double click on Log in logs in')
    await button(page, 'Allow').dblclick()
    step('a double click on Allow allows', (await exchange((await back(page, asked)).code, asked)).status === 200)
  },

  async 'a form that is sent twice'() {
    const context = await someone()
    const page = await context.newPage()
    const asked = ask()
    await page.goto(asked.url)
    const twice = async (more) => {
      const form = page.locator('form')
      const [url, ticket] = [await form.evaluate(({ action }) => action), await page.locator('[name=ticket]').inputValue()]
      const send = () => context.request.post(url, { form: { ticket, ...more }, maxRedirects: 0 })
      return (await Promise.all([send(), send()])).map((response) => [response.status(), response.headers().location])
    }
    const [[one, there], [other]] = await twice(USER)
    step('both of two logins with one page are good', one === 303 && other === 303)
    await page.goto(there)
    const codes = (await twice({ decision: 'allow' })).map(([, location]) => new URL(location).searchParams.get('code'))
    for (const code of codes) step('and so is either code', (await exchange(code, asked)).status === 200)
  },

  async 'two tabs'() {
    const context = await someone()
    const tabs = await Promise.all([0, 1].map(async () => {
      const page = await context.newPage()
      const asked = ask()
      await page.goto(asked.url)
      return { page, asked }
    }))
    await Promise.all(tabs.map(async ({ page, asked }) => {
      await logIn(page)
      await button(page, 'Allow').click()
      step('one of two tabs at once has its tokens', (await exchange((await back(page, asked)).code, asked)).status === 200)
    }))
  },

  async 'pages that were open for too long'() {
    const context = await someone()
    const [page, other] = [await context.newPage(), await context.newPage()]
    const asked = ask()
    await page.goto(asked.url)
    pass(HOUR_AND_MORE)
    await logIn(page)
    await page.getByText('This page was open for too long. Please log in again.').waitFor()
    await page.getByLabel('Password').fill(USER.password)
    await button(page, 'Log in').click()
    await heading(page, 'Allow access?').waitFor()
    step('an old page for logging in loses nothing but the password')
    pass(HOUR_AND_MORE)
    await button(page, 'Allow').click()
    await heading(page, 'This page has expired').waitFor()
    step('an old page for consent gives nothing')
    await other.goto(logOut())
    pass(HOUR_AND_MORE)
    await button(other, 'Log out').click()
    await heading(other, 'You are logged out').waitFor()
    step('an old page for logging out means the same')
  },

  async 'a page of another browser'() {
    const theirs = await (await someone()).newPage()
    await theirs.goto(ask().url)
    const ticket = await theirs.locator('[name=ticket]').inputValue()
    const context = await someone()
    const page = await context.newPage()
    await page.goto(ask().url)
    await page.locator('[name=ticket]').evaluate((field, ticket) => { field.value = ticket }, ticket)
    await logIn(page)
    await heading(page, 'Please try again').waitFor()
    step('logs nobody in', !await isLoggedIn(context))
  },

  async 'the keyboard alone'() {
    const context = await someone()
    const page = await context.newPage()
    const focused = () => page.evaluate(() => document.activeElement.textContent || document.activeElement.name)
    const ring = () => page.evaluate(() => {
      const { outlineStyle, outlineWidth } = getComputedStyle(document.activeElement)
      return outlineStyle !== 'none' && parseFloat(outlineWidth) >= 2
    })
    const tab = async (key, name) => {
      await page.keyboard.press(key)
      step(`${key} goes to ${name}, where it can be seen`, (await focused()) === name && await ring())
    }
    const asked = ask()
    await page.goto(asked.url)
    step('the username comes first', (await focused()) === 'username' && await ring())
    await page.keyboard.type(USER.username)
    await tab('Tab', 'password')
    await page.keyboard.type(USER.password)
    await tab('Tab', 'Log in')
    await page.keyboard.press('Enter')
    await heading(page, 'Allow access?').waitFor()
    for (const name of ['Allow', 'Deny', 'Log in as somebody else']) await tab('Tab', name)
    for (const name of ['Deny', 'Allow']) await tab('Shift+Tab', name)
    await page.keyboard.press('Enter')
    step('Enter allows', Boolean((await back(page, asked)).code))
    await page.goto(logOut({ client_id: 'shop', post_logout_redirect_uri: `${APP}/out` }))
    for (const name of ['Log out', 'Stay logged in']) await tab('Tab', name)
    await tab('Shift+Tab', 'Log out')
    await page.keyboard.press('Space')
    await heading(page, 'Good-bye from the app').waitFor()
    step('and logs out')
    // Enter in a field sends the form.
    const again = ask()
    await page.goto(again.url)
    await page.getByLabel('Username').fill(USER.username)
    await page.getByLabel('Password').fill(USER.password)
    await page.keyboard.press('Enter')
    await heading(page, 'Allow access?').waitFor()
    step('Enter in a field sends the form')
  },

  async 'without JavaScript'() {
    const page = await (await someone({ javaScriptEnabled: false })).newPage()
    const asked = ask()
    await page.goto(asked.url)
    await logIn(page, { ...USER, password: 'wrong' })
    await page.getByRole('alert').waitFor()
    await logIn(page)
    await button(page, 'Allow').click()
    const tokens = await exchange((await back(page, asked)).code, asked)
    await page.goto(logOut())
    await button(page, 'Log out').click()
    await heading(page, 'You are logged out').waitFor()
    step('all of it goes', tokens.status === 200)
  },

  async 'log out'() {
    const { context, page } = await atTheApp()
    await page.goto(logOut())
    step('it is asked for', await isLoggedIn(context))
    await button(page, 'Log out').click()
    await heading(page, 'You are logged out').waitFor()
    step('and done', !await isLoggedIn(context))
    await page.goBack()
    await heading(page, 'You are logged out').waitFor()
    step('going back does not undo it', !await isLoggedIn(context))
  },

  async 'log out from the app'() {
    const parameters = (tokens) => ({ id_token_hint: tokens.id_token, post_logout_redirect_uri: `${APP}/out`, state: 'a b&c' })
    const { context, page, tokens } = await atTheApp()
    await page.goto(logOut(parameters(tokens)))
    await heading(page, 'Good-bye from the app').waitFor()
    step('with a hint nobody is asked', new URL(page.url()).searchParams.get('state') === 'a b&c')
    step('and the browser is logged out', !await isLoggedIn(context))
    const refresh = new URLSearchParams({ grant_type: 'refresh_token', client_id: 'shop', refresh_token: tokens.refresh_token })
    const refused = await (await fetch(new URL('/oauth/token', ISSUER), { method: 'POST', body: refresh })).json()
    step('and the app as well', refused.error === 'invalid_grant')

    // What another site posts comes without the cookie of the login.
    const posting = await atTheApp()
    const form = new URLSearchParams({ to: `${ISSUER}/oauth/logout`, ...parameters(posting.tokens) })
    await posting.page.goto(`${APP}/post?${form}`)
    await button(posting.page, 'Send').click()
    await heading(posting.page, 'Good-bye from the app').waitFor()
    step('a form of the app does the same', !await isLoggedIn(posting.context))

    const asking = await atTheApp()
    await asking.page.goto(logOut({ ...parameters(tokens), client_id: 'shop', id_token_hint: 'none' }))
    await button(asking.page, 'Stay logged in').click()
    await heading(asking.page, 'Good-bye from the app').waitFor()
    step('without a hint the user is asked, and can stay', await isLoggedIn(asking.context))
    await asking.page.goBack()
    await button(asking.page, 'Log out').click()
    await heading(asking.page, 'Good-bye from the app').waitFor()
    step('or not', !await isLoggedIn(asking.context))
  },

  async 'in a frame'() {
    const context = await browser.newContext()
    const page = await context.newPage()
    for (const url of [ask().url, logOut()]) {
      const said = page.waitForEvent('console', (message) => message.text().includes("frame-ancestors 'none'"))
      await page.goto(`${APP}/frame?${new URLSearchParams({ of: url })}`)
      await said
      const frame = page.frames()[1]
      await frame.waitForURL(({ protocol }) => protocol === 'chrome-error:')
      step('no page of ours is shown, and the browser says why', await frame.locator('form').count() === 0)
    }
  },
}

for (const [name, flow] of Object.entries(flows)) {
  if (![name, undefined].includes(process.env.FLOW)) continue
  console.log(`-- ${name}`)
  await flow()
}
await leave()
