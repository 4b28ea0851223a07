// How the pages of a running Sidegate look in a real browser, light and dark, narrow and wide, and what axe-core finds in them:
// node looks.mjs ISSUER CLOCK_FILE FOLDER_FOR_SCREENSHOTS
// Prints a line for each step, and fails at the end if one was not as it should be.

import { readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import {
  APP, HOUR_AND_MORE, SHOTS, USER, ask, button, heading, leave, logIn, logOut, pass, someone, step, untilConsent,
} from './desk.mjs'

const AXE = readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8')

// Every page, each as a user comes to it, in a browser with nobody logged in.
async function* pages(page) {
  await page.goto(ask().url)
  await heading(page, 'Log in').waitFor()
  yield 'login'
  await logIn(page, { ...USER, password: 'wrong' })
  await page.getByRole('alert').waitFor()
  yield 'login-wrong'
  pass(HOUR_AND_MORE)
  await logIn(page)
  await page.getByText('open for too long').waitFor()
  yield 'login-expired'
  await logIn(page)
  await heading(page, 'Allow access?').waitFor()
  yield 'consent'
  pass(HOUR_AND_MORE)
  await button(page, 'Allow').click()
  await heading(page, 'This page has expired').waitFor()
  yield 'expired'
  await page.goto(ask({ client_id: 'long', scope: 'read' }).url)
  await heading(page, 'Allow access?').waitFor()
  yield 'consent-long'
  await page.goto(logOut())
  await heading(page, 'Log out?').waitFor()
  yield 'logout'
  await page.goto(logOut({ client_id: 'shop', post_logout_redirect_uri: `${APP}/out` }))
  await heading(page, 'Log out?').waitFor()
  yield 'logout-from-app'
  await page.locator('[name=ticket]').evaluate((field) => { field.value = 'x' })
  await button(page, 'Log out').click()
  await heading(page, 'Please try again').waitFor()
  yield 'not-ours'
  await page.goto(logOut())
  await button(page, 'Log out').click()
  await heading(page, 'You are logged out').waitFor()
  yield 'signed-out'
  await page.goto(ask({ redirect_uri: `${APP}/elsewhere` }).url)
  await heading(page, 'This link does not work').waitFor()
  yield 'bad-link'
}

const KINDS = ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa', 'best-practice']

const wrong = []
function look(what, good, detail = '') {
  console.log(`${good ? 'ok ' : 'NOT OK'} ${what}${good ? '' : `: ${detail}`}`)
  if (!good) wrong.push(what)
}

// Whether a page keeps within its width, also with letters of another size.
async function keepsWithin(page, what, width, size) {
  await page.setViewportSize({ width, height: 800 })
  const [wide, there] = await page.evaluate((size) => {
    const all = document.documentElement
    all.style.fontSize = `${size}px`
    return [all.scrollWidth, all.clientWidth]
  }, size)
  look(`${what}: it does not scroll sideways at ${width} px, with letters of ${size} px`, wide <= there, `${wide} in ${there}`)
}

// How light what is behind everything is, from 0 to 255.
const lightness = (page) => page.evaluate(() => {
  const [red, green, blue] = getComputedStyle(document.documentElement).backgroundColor.match(/\d+/g).map(Number)
  return (red + green + blue) / 3
})

for (const colorScheme of ['light', 'dark']) {
  for (const width of [1280, 360]) {
    // axe-core is a script, which the policy of these pages forbids, and rightly so.
    const context = await someone({ colorScheme, viewport: { width, height: 800 }, bypassCSP: true })
    const page = await context.newPage()
    for await (const name of pages(page)) {
      const what = `${name}, ${colorScheme}, ${width} px`
      if (SHOTS) await page.screenshot({ path: `${SHOTS}/${name}-${colorScheme}-${width}.png`, fullPage: true })
      await keepsWithin(page, what, width, 16)
      look(`${what}: it is ${colorScheme}`, (await lightness(page) > 128) === (colorScheme === 'light'))
      // A wide window has the same in it, with more room around.
      if (width > 360) continue
      await page.evaluate(AXE)
      const { violations, incomplete } = await page.evaluate((runOnly) => axe.run({ runOnly }), KINDS)
      const where = (nodes) => nodes.map(({ target }) => target).join(' ')
      const found = [...violations, ...incomplete].map(({ id, nodes }) => `${id} (${where(nodes)})`)
      look(`${what}: axe-core finds nothing`, found.length === 0, found.join(', '))
      // Narrower than any phone, which is what a wide window is at 400 % (WCAG 2.2, 1.4.10); and letters twice as large (1.4.4).
      for (const [width, size] of [[320, 16], [640, 32]]) await keepsWithin(page, what, width, size)
      await page.setViewportSize({ width, height: 800 })
    }
    await context.close()
  }
}

// Whoever does not want things to move sees nothing move.
for (const reducedMotion of ['reduce', 'no-preference']) {
  const page = await (await someone({ reducedMotion })).newPage()
  await untilConsent(page)
  const moves = await button(page, 'Allow').evaluate((element) => parseFloat(getComputedStyle(element).transitionDuration) > 0)
  look(`motion: ${reducedMotion}`, !moves || reducedMotion === 'no-preference')
}

step(`${wrong.length} of all that was looked at is wrong`, wrong.length === 0)
await leave()
