// Payload: a content management system over drizzle, its collections declared in code, its tables made by itself.
import { sqliteAdapter } from '@payloadcms/db-sqlite'
import { postgresAdapter } from '@payloadcms/db-postgres'
import { buildConfig, getPayload } from 'payload'

const [step, url] = process.argv.slice(2)
const onPostgresql = url.startsWith('postgresql:')
process.env.NODE_ENV = 'development'
process.env.PAYLOAD_DISABLE_ADMIN = 'true'

const collections = [
  {
    slug: 'authors',
    auth: true,
    fields: [
      { name: 'name', type: 'text', required: true, localized: true },
      { name: 'born', type: 'date' },
      { name: 'settings', type: 'json' },
      { name: 'active', type: 'checkbox', defaultValue: true },
    ],
  },
  {
    slug: 'articles',
    versions: { drafts: true, maxPerDoc: 5 },
    fields: [
      { name: 'title', type: 'text', required: true, unique: true, localized: true },
      { name: 'price', type: 'number' },
      { name: 'kind', type: 'select', options: ['news', 'essay', 'it-s'], hasMany: true },
      { name: 'state', type: 'select', options: ['open', 'closed'] },
      { name: 'author', type: 'relationship', relationTo: 'authors' },
      { name: 'related', type: 'relationship', relationTo: ['articles', 'authors'], hasMany: true },
      { name: 'tags', type: 'text', hasMany: true },
      { name: 'numbers', type: 'number', hasMany: true },
      { name: 'lines', type: 'array', fields: [
        { name: 'text', type: 'textarea', localized: true },
        { name: 'amount', type: 'number' },
        { name: 'when', type: 'date' },
      ] },
      { name: 'layout', type: 'blocks', blocks: [
        { slug: 'quote', fields: [{ name: 'words', type: 'text' }, { name: 'meta', type: 'json' }] },
        { slug: 'picture', fields: [{ name: 'width', type: 'number' }, { name: 'shown', type: 'checkbox' }] },
      ] },
      { name: 'raw', type: 'json' },
    ],
  },
]

const payload = await getPayload({
  config: buildConfig({
    secret: 'of a test',
    telemetry: false,
    logger: { options: { level: 'error' } },
    localization: { locales: ['en', 'de'], defaultLocale: 'en', fallback: true },
    collections,
    globals: [{ slug: 'site', fields: [{ name: 'motto', type: 'text' }, { name: 'opened', type: 'date' }] }],
    db: onPostgresql
      ? postgresAdapter({ pool: { connectionString: url }, push: step === 'schema' })
      : sqliteAdapter({ client: { url: url.replace('sqlite:///', 'file:') }, push: step === 'schema' }),
  }),
})

// Numbers in arrays have 15 digits at most: Payload reads arrays of SQLite through json_array(), which rounds to that.
async function rows() {
  const authors = []
  for (const [number, name] of ['Zoë', "O'Brien", '名前', '"quoted" \\N'].entries()) {
    authors.push(await payload.create({ collection: 'authors', data: {
      email: `a${number}@example.org`, password: 'pässword', name, active: number !== 1,
      born: number ? `19${number}9-12-31T23:59:59.9${number}Z` : null,
      settings: number ? { b: 1, a: [null, 1.5, 'x'], nested: { ü: '🦆' } } : null,
    } }))
  }
  await payload.update({ collection: 'authors', id: authors[0].id, locale: 'de', data: { name: 'Zoë auf Deutsch' } })
  const articles = []
  for (let number = 0; number < 30; number++) {
    articles.push(await payload.create({ collection: 'articles', draft: number % 5 === 4, data: {
      title: `Article ${number} – 50% «off»`, price: [0.1 + 0.2, -1e-7, 12, null, 1e21][number % 5],
      kind: ['news', 'essay', 'it-s'].slice(0, number % 4), state: number % 3 ? 'open' : null,
      author: authors[number % 4].id, tags: number % 2 ? ['a', '', 'ü'] : [], numbers: number % 3 ? [1, 2.5] : [],
      related: articles.length ? [{ relationTo: 'articles', value: articles[number - 1].id },
        { relationTo: 'authors', value: authors[0].id }] : [],
      lines: [{ text: 'line\nbreak\t', amount: number / 8, when: '2024-02-29T00:00:00.000Z' }, { text: null }],
      layout: [{ blockType: 'quote', words: 'wörds', meta: [1, { k: null }] },
        { blockType: 'picture', width: number, shown: number % 2 === 0 }],
      raw: [null, ['text', 1.50], { n: 12345678901234567890 }, [], { a: { b: [] } }][number % 5],
    } }))
  }
  await payload.update({ collection: 'articles', id: articles[0].id, locale: 'de', data: { title: 'Artikel 0' } })
  await payload.updateGlobal({ slug: 'site', data: { motto: 'Größe', opened: '2020-01-01T12:00:00.000Z' } })
}

async function change() {
  const { docs } = await payload.find({ collection: 'articles', sort: 'id', limit: 5 })
  await payload.update({ collection: 'articles', id: docs[0].id, data: {
    title: 'changed after the move', price: 1 / 3, raw: { z: 1, a: '🦆', n: 1e21 }, tags: ['new'], kind: ['it-s'],
    lines: [...docs[0].lines, { text: 'third', amount: 1e-9, when: '2031-07-01T01:02:03.004Z' }],
  } })
  await payload.delete({ collection: 'articles', id: docs[1].id })
  await payload.create({ collection: 'articles', data: { title: 'new', author: docs[0].author?.id, price: 7,
    layout: [{ blockType: 'picture', width: 2.5, shown: null }], raw: ['x'] } })
  await payload.create({ collection: 'authors', data: { email: 'new@example.org', password: 'pässword 2', name: 'New',
    settings: { late: true } } })
}

async function read() {
  const found = {}
  for (const locale of ['en', 'de']) {
    for (const collection of ['authors', 'articles']) {
      const options = {
        collection, sort: 'id', limit: 1000, depth: 1, locale, showHiddenFields: true, fallbackLocale: false }
      found[`${collection} ${locale}`] = (await payload.find(options)).docs
    }
    found[`versions ${locale}`] =
      (await payload.findVersions({ collection: 'articles', sort: 'id', limit: 1000, depth: 0, locale })).docs
  }
  found.site = await payload.findGlobal({ slug: 'site' })
  await new Promise((written) => process.stdout.write(JSON.stringify(found), written))
}

if (step !== 'schema') await { rows, change, read }[step]()
process.exit(0)
