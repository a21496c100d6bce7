/** One statement of a SQL file. */
export interface Statement {
  /** As it stands in the file, from its first word on. */
  text: string;
  /** The line that it starts on. */
  line: number;
  /** The text with each comment as one blank. */
  code: string;
}

const LETTER = String.raw`\p{L}\p{N}_`;
const WORD_START = String.raw`[\p{L}\p{Nl}\p{No}_]`;
/** White space as Python sees it, for use in a class of characters. */
export const BLANK = String.raw`\t-\r\x1c-\x20\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000`;

/** The pieces of SQL that matter for finding the end of a statement. Comments nest, so only their start stands here. */
const TOKEN = new RegExp(
  [
    String.raw`(?<comment>--[^\n]*|/\*)`,
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
      statements.push({ text: content.slice(start, end), line: lineAt(content, start), code: code.join('') });
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
