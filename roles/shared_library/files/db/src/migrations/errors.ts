/** Something that is wrong: where, what, and what to do about it. */
export interface Problem {
  where: string;
  what: string;
  fix: string;
}

/** Why the schema cannot be brought up to date, with every violation. */
export class MigrationError extends Error {
  constructor(
    readonly summary: string,
    readonly problems: readonly Problem[],
  ) {
    super([summary, ...problems.map(({ where, what, fix }) => `  - ${where}: ${what}. ${fix}`)].join('\n'));
    this.name = 'MigrationError';
  }
}
