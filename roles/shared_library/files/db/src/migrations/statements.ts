/** One statement of a SQL file. */
export interface Statement {
  /** As it stands in the file, from its first word on. */
  text: string;
  /** The line that it starts on. */
  line: number;
  /** The text with each comment as one blank. */
  code: string;
  /** What is executed for it: what pg_dump says of its session holds for its own file only. Empty for one of ours. */
  executed: string;
}

const LETTER = String.raw`\p{L}\p{N}_`;
const WORD_START = String.raw`[\p{L}\p{Nl}\p{No}_]`;
/** White space as Python sees it, for use in a class of characters. */
export const BLANK = String.raw`\t-\r\x1c-\x20\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000`;

/** The pieces of SQL that matter for finding the end of a statement. Comments nest, so only their start stands here. */
const TOKEN = new RegExp(
  [
    // With \restrict and its end pg_dump tells psql to take no other command: that is nothing to us.
    String.raw`(?<comment>--[^\n]*|/\*|(?<![^\n])\\(?:un)?restrict [${LETTER}]+[ \r]*(?![^\n]))`,
    String.raw`(?<quoted>(?<![${LETTER}$])E'(?:[^'\\]|\\.|'')*'|'(?:[^']|'')*'|"(?:[^"]|"")*"` +
      String.raw`|(?<![${LETTER}$])(?<tag>\$(?:${WORD_START}[${LETTER}]*)?\$).*?\k<tag>)`,
    String.raw`(?<word>${WORD_START}[${LETTER}$]*)`,
    `(?<other>[^${BLANK}])`,
  ].join('|'),
  'gisu',
);
const COMMENT_EDGE = /\/\*|\*\//g;

/**
 * Splits a SQL file into its statements, exactly as schema_apply does.
 *
 * A semicolon ends a statement unless it stands in a comment, a quoted text, parentheses or the body of a function
 * (`$$ … $$` or `BEGIN ATOMIC … END`).
 */
export function splitStatements(content: string): Statement[] {
  const statements: Statement[] = [];
  let start: number | undefined;
  let code: string[] = [];
  let [before, parentheses, blocks, position] = [0, 0, 0, 0];
  let previous = '';
  const finish = (end?: number): void => {
    if (start !== undefined) {
      const [text, joined] = [content.slice(start, end), code.join('')];
      statements.push({ text, line: lineAt(content, start), code: joined, executed: executed(text, joined) });
    }
    [start, code] = [undefined, []];
  };
  for (;;) {
    TOKEN.lastIndex = position;
    const token = TOKEN.exec(content);
    if (token === null) {
      break;
    }
    const text = token[0];
    position = TOKEN.lastIndex;
    if (token.groups?.comment !== undefined) {
      position = text === '/*' ? endOfComment(content, position) : position;
      continue;
    }
    if (start === undefined) {
      if (text === ';') {
        continue;
      }
      start = token.index;
    } else if (token.index > before) {
      code.push(' ');
    }
    code.push(text);
    before = position;
    const word = token.groups?.word?.toLowerCase() ?? '';
    if (word === 'atomic' && previous === 'begin') {
      blocks = 1;
    } else if (blocks > 0) {
      blocks += word === 'case' ? 1 : word === 'end' ? -1 : 0;
    }
    parentheses = Math.max(0, parentheses + (text === '(' ? 1 : text === ')' ? -1 : 0));
    previous = word;
    if (text === ';' && parentheses === 0 && blocks === 0) {
      finish(position);
    }
  }
  finish();
  return statements;
}

// What pg_dump -s writes at its beginning about its session, and what becomes of it, exactly as in schema_apply.
const EMPTY_SEARCH_PATH =
  /^(select\s+pg_catalog\.set_config\s*\(\s*'search_path'\s*,\s*''\s*,\s*)false(\s*\)\s*;?)$/iu;
const DUMP_SETTING_OF_OURS = new RegExp(
  String.raw`^set\s+((statement_timeout|lock_timeout|idle_in_transaction_session_timeout|transaction_timeout)\s*=\s*0` +
    String.raw`|client_encoding\s*=\s*'UTF8'|standard_conforming_strings\s*=\s*on|default_with_oids\s*=\s*false)\s*;?$`,
  'iu',
);
const DUMP_SETTING_OF_THE_FILE = new RegExp(
  String.raw`^set(?=\s+(check_function_bodies|xmloption|client_min_messages|row_security|default_tablespace` +
    String.raw`|default_table_access_method)\s*=)`,
  'iu',
);

/** Returns what is executed for a statement. */
function executed(text: string, code: string): string {
  if (DUMP_SETTING_OF_OURS.test(code)) {
    return '';
  }
  if (EMPTY_SEARCH_PATH.test(code)) {
    return code.replace(EMPTY_SEARCH_PATH, '$1true$2');
  }
  return DUMP_SETTING_OF_THE_FILE.test(code) ? text.replace(DUMP_SETTING_OF_THE_FILE, 'SET LOCAL') : text;
}

/** Returns the number of the line at a position. */
export function lineAt(content: string, position: number): number {
  return content.slice(0, position).split('\n').length;
}

/** Returns where the block comment ends that began before `position`; such comments nest. */
function endOfComment(content: string, position: number): number {
  let depth = 1;
  COMMENT_EDGE.lastIndex = position;
  let edge: RegExpExecArray | null;
  while (depth > 0 && (edge = COMMENT_EDGE.exec(content)) !== null) {
    position = COMMENT_EDGE.lastIndex;
    depth += edge[0] === '/*' ? 1 : -1;
  }
  return depth > 0 ? content.length : position;
}
