import { Fragment, type ComponentChildren, type VNode } from "preact";

/**
 * Markdown as models write it, turned into elements directly: no HTML is ever parsed, so that nothing in an answer can
 * become a script, a form or a request. Pictures in it are shown as their text for the same reason.
 */
export function Markdown({ text }: { text: string }): VNode {
  return <div class="prose">{blocks(text.replace(/\r\n?/g, "\n").split("\n"), 0)}</div>;
}

const DEEPEST = 8;
const FENCE = /^\s{0,3}(```+|~~~+)\s*(\S*)(.*)$/;
const HEADING = /^\s{0,3}(#{1,6})\s+(.*?)\s*#*$/;
const RULE = /^\s{0,3}([-*_])(\s*\1){2,}\s*$/;
const ITEM = /^(\s*)([-*+•]|\d{1,9}[.)])\s+(.*)$/;
const TABLE_RULE = /^\s*\|?\s*:?-+:?\s*(\|\s*:?-+:?\s*)*\|?\s*$/;

function blocks(lines: string[], depth: number): VNode[] {
  const out: VNode[] = [];
  let at = 0;
  while (at < lines.length) {
    const line = lines[at] ?? "";
    if (line.trim() === "") {
      at += 1;
      continue;
    }
    const [block, next] = one(lines, at, depth);
    out.push(<Fragment key={at}>{block}</Fragment>);
    at = next;
  }
  return out;
}

/** The block that starts at a line, and where the next one may start. */
function one(lines: string[], at: number, depth: number): [VNode, number] {
  const line = lines[at] ?? "";
  if (FENCE.test(line)) return fence(lines, at);
  const heading = HEADING.exec(line);
  if (heading !== null) {
    // The page's own headings are h1 and h2; an answer's begin below them, whatever the model chose.
    const Level = heading[1]!.length <= 2 ? "h3" : "h4";
    return [<Level>{inline(heading[2] ?? "")}</Level>, at + 1];
  }
  if (RULE.test(line)) return [<hr />, at + 1];
  if (/^\s{0,3}>/.test(line) && depth < DEEPEST) {
    const end = run(lines, at, (text) => /^\s{0,3}>/.test(text));
    const inner = lines.slice(at, end).map((text) => text.replace(/^\s{0,3}> ?/, ""));
    return [<blockquote>{blocks(inner, depth + 1)}</blockquote>, end];
  }
  if (ITEM.test(line) && depth < DEEPEST) return list(lines, at, depth);
  if (line.includes("|") && TABLE_RULE.test(lines[at + 1] ?? "") && (lines[at + 1] ?? "").includes("-")) {
    return table(lines, at);
  }
  const end = Math.max(at + 1, run(lines, at, (text, index) => index === at || !interrupts(text)));
  return [<p>{withBreaks(lines.slice(at, end))}</p>, end];
}

function interrupts(line: string): boolean {
  return line.trim() === "" || FENCE.test(line) || HEADING.test(line) || RULE.test(line) || ITEM.test(line) || /^\s{0,3}>/.test(line);
}

function run(lines: string[], at: number, holds: (line: string, index: number) => boolean): number {
  let end = at;
  while (end < lines.length && holds(lines[end] ?? "", end)) end += 1;
  return end;
}

function fence(lines: string[], at: number): [VNode, number] {
  const [, marks = "```", language = "", rest = ""] = FENCE.exec(lines[at] ?? "") ?? [];
  // Models write ```json[…]``` in one line, too.
  const whole = `${language}${rest}`;
  if (whole.endsWith(marks)) {
    return [<Code code={whole.slice(0, -marks.length).replace(/^json(?=[[{])/, "")} />, at + 1];
  }
  const end = run(lines, at + 1, (line) => !line.trimStart().startsWith(marks));
  return [<Code code={lines.slice(at + 1, end).join("\n")} />, Math.min(end + 1, lines.length)];
}

function Code({ code }: { code: string }): VNode {
  return (
    <pre tabIndex={0}>
      <code>{code}</code>
    </pre>
  );
}

function list(lines: string[], at: number, depth: number): [VNode, number] {
  const first = ITEM.exec(lines[at] ?? "");
  const indent = first?.[1]?.length ?? 0;
  const ordered = /\d/.test(first?.[2] ?? "");
  const items: string[][] = [];
  let next = at;
  while (next < lines.length) {
    const line = lines[next] ?? "";
    const item = ITEM.exec(line);
    if (item !== null && (item[1]?.length ?? 0) <= indent + 1) {
      if ((item[1]?.length ?? 0) < indent || /\d/.test(item[2] ?? "") !== ordered) break;
      items.push([item[3] ?? ""]);
    } else if (line.trim() === "") {
      // A blank line belongs to the list only when the list goes on behind it.
      const after = lines[next + 1] ?? "";
      if (!ITEM.test(after) && !/^\s{2,}\S/.test(after)) break;
      items.at(-1)?.push("");
    } else if (/^\s{2,}\S/.test(line) || !interrupts(line)) {
      items.at(-1)?.push(line.slice(Math.min(line.length - line.trimStart().length, indent + 2)));
    } else break;
    next += 1;
  }
  const children = items.map((item, index) => <li key={index}>{tight(blocks(item, depth + 1), item)}</li>);
  const start = Number.parseInt(first?.[2] ?? "1", 10);
  return [ordered ? <ol start={start}>{children}</ol> : <ul>{children}</ul>, next];
}

/** An item of one paragraph stands without the paragraph's space around it. */
function tight(inner: VNode[], lines: string[]): ComponentChildren {
  return inner.length === 1 && lines.every((line) => line.trim() !== "" && !interrupts(line)) ? withBreaks(lines) : inner;
}

function table(lines: string[], at: number): [VNode, number] {
  const end = run(lines, at + 2, (line) => line.includes("|") && line.trim() !== "");
  const cells = (line: string): string[] =>
    line.trim().replace(/^\||\|$/g, "").split(/(?<!\\)\|/).map((cell) => cell.trim().replace(/\\\|/g, "|"));
  const head = cells(lines[at] ?? "");
  return [
    <div class="table" tabIndex={0} role="region" aria-label="Table">
      <table>
        <thead>
          <tr>{head.map((cell, index) => <th key={index} scope="col">{inline(cell)}</th>)}</tr>
        </thead>
        <tbody>
          {lines.slice(at + 2, end).map((line, row) => (
            <tr key={row}>{cells(line).slice(0, head.length).map((cell, index) => <td key={index}>{inline(cell)}</td>)}</tr>
          ))}
        </tbody>
      </table>
    </div>,
    end,
  ];
}

/** Reports put each region on its own line, without markdown's two spaces: every line break is one. */
function withBreaks(lines: string[]): ComponentChildren[] {
  return lines.flatMap((line, index) => (index === 0 ? inline(line.trim()) : [<br key={`b${index}`} />, ...inline(line.trim())]));
}

// In this order: code, picture or link, record citation, bold, italic, address.
const INLINE =
  /(`+)(.+?)\1|!?\[([^\]]*)\]\(([^()\s]*)\)|\[([A-Z][A-Za-z]{2,30}\/[A-Za-z0-9.-]{1,64})\]|\*\*(?=\S)(.+?)\*\*|(?<![\w*])[*_](?=\S)([^*_]+?)[*_](?![\w*])|(https?:\/\/[^\s<>()]+)/;

function inline(text: string, depth = 0): ComponentChildren[] {
  const out: ComponentChildren[] = [];
  let rest = text;
  while (rest !== "") {
    const found = depth < DEEPEST ? INLINE.exec(rest) : null;
    if (found === null) {
      out.push(rest);
      break;
    }
    if (found.index > 0) out.push(rest.slice(0, found.index));
    out.push(<Fragment key={out.length}>{span(found, depth)}</Fragment>);
    rest = rest.slice(found.index + found[0].length);
  }
  return out;
}

function span(found: RegExpExecArray, depth: number): ComponentChildren {
  const [whole, , code, label, target, citation, bold, italic, address] = found;
  if (code !== undefined) return <code>{code}</code>;
  if (citation !== undefined) return <cite>{citation}</cite>;
  if (bold !== undefined) return <strong>{inline(bold, depth + 1)}</strong>;
  if (italic !== undefined) return <em>{inline(italic, depth + 1)}</em>;
  if (address !== undefined) return link(address, address);
  if (label !== undefined && target !== undefined) {
    return /^https?:\/\//.test(target) && !whole.startsWith("!") ? link(target, label || target) : label || whole;
  }
  return whole;
}

function link(target: string, label: string): VNode {
  return (
    <a href={target} target="_blank" rel="noopener noreferrer" title={target}>
      {label}
    </a>
  );
}
