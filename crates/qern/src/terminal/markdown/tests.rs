use proptest::prelude::*;

use super::super::style::strip;
use super::*;

/// The rendering of `source`, styles written as `{1;36}` and plain as `{}`.
fn check(source: &str, expected: &str) {
    let rendered = render(&[source]).replace("\x1b[0m", "{}").replace("\x1b[", "{");
    let mut readable = String::new();
    let mut in_code = false;
    for ch in rendered.chars() {
        match ch {
            '{' => in_code = true,
            '}' => in_code = false,
            'm' if in_code => {
                readable.push('}');
                in_code = false;
                continue;
            }
            _ => {}
        }
        readable.push(ch);
    }
    assert_eq!(readable, expected, "rendering {source:?}");
}

fn render(pieces: &[&str]) -> String {
    let mut markdown = Markdown::new();
    let mut out = String::new();
    pieces.iter().for_each(|piece| markdown.push(piece, &mut out));
    markdown.finish(&mut out);
    out
}

#[test]
fn emphasis_is_styled_and_its_markers_are_dimmed() {
    check("plain", "plain");
    check("a **b** c", "a {2}**{}{1}b{}{2}**{} c");
    check("*i*", "{2}*{}{3}i{}{2}*{}");
    check("***x***", "{2}***{}{1;3}x{}{2}***{}");
    check("**a *b* c**", "{2}**{}{1}a {}{2}*{}{1;3}b{}{2}*{}{1} c{}{2}**{}");
    check("~~no~~", "{2}~~{}{9}no{}{2}~~{}");
    check("中文**粗体**文字", "中文{2}**{}{1}粗体{}{2}**{}文字");
}

#[test]
fn formulas_and_identifiers_are_not_emphasis() {
    check("2 * 3 * 4", "2 * 3 * 4");
    check("2*3*4", "2*3*4");
    check("2**10", "2**10");
    check("snake_case_name", "snake_case_name");
    check(r"\*not\*", r"\*not\*");
    check("a ~ b", "a ~ b");
}

#[test]
fn code_spans_protect_their_text() {
    check("`a*b*`", "{2}`{}{36}a*b*{}{2}`{}");
    check("``a`b``", "{2}``{}{36}a`b{}{2}``{}");
    check("```one line```", "{2}```{}{36}one line{}{2}```{}");
}

#[test]
fn blocks_are_recognized_at_the_start_of_a_line() {
    check("# Title\ntext", "{2}#{}{1;35} Title{}\ntext");
    check("#hashtag", "#hashtag");
    check("- item", "{33}-{} item");
    check("  12. item", "{33}  12.{} item");
    check("3.14 is pi", "3.14 is pi");
    check("> quote\n", "{2}>{}{3} quote{}\n");
    check("> - a", "{2}>{}{33} -{}{3} a{}");
    check("---\n", "---\n");
    check("**Note:** x", "{2}**{}{1}Note:{}{2}**{} x");
    check("| a | b |\n", "{2}|{} a {2}|{} b {2}|{}\n");
}

#[test]
fn a_fenced_block_is_verbatim_until_its_closing_fence() {
    check("```rust\nlet *a = **b;\n```\nafter", "{2}```rust\n{}{36}let *a = **b;\n{}{2}```{}\nafter");
    check("~~~\n```\n~~~\n", "{2}~~~\n{}{36}```\n{}{2}~~~{}\n");
    check("````\n```\n````", "{2}````\n{}{36}```\n{}{2}````{}");
    check("```\n``` not closed\n```\n", "{2}```\n{}{36}``` not closed\n{}{2}```{}\n");
}

#[test]
fn the_address_of_a_link_is_dimmed() {
    check("[text](https://a.b/c_d_e) x", "[text{2}]({}{2;4}https://a.b/c_d_e{}{2}){} x");
    check("a[1] [x]", "a[1] [x]");
}

#[test]
fn an_unclosed_marker_ends_with_its_line() {
    check("**open\nnext", "{2}**{}{1}open{}\nnext");
    check("`open\nnext", "{2}`{}{36}open{}\nnext");
    check("trailing **", "trailing **");
    check("```", "{2}```{}");
}

#[test]
fn text_is_shown_without_waiting_for_more() {
    let mut markdown = Markdown::new();
    for piece in ["**", "bo", "ld", "** an", "d `co", "de"] {
        let mut out = String::new();
        markdown.push(piece, &mut out);
        let shown = strip(&out);
        assert!(piece == "**" || piece.ends_with('*') || shown.ends_with(piece), "{piece:?} showed {shown:?}");
    }
}

#[test]
fn control_characters_cannot_reach_the_terminal() {
    check("a\x1b[2Jb\u{7}", "a␛[2Jb␇");
    check("\u{9b}2J \u{202e}", "\u{fffd}2J \u{fffd}");
}

proptest! {
    #[test]
    fn any_chunking_renders_the_same_bytes(source in r"([a-z 1.é中\n#>|()\[\]\\*_`~-]|\*\*|```|\n){0,80}", cuts in prop::collection::vec(0usize..200, 0..12)) {
        let mut at: Vec<usize> = cuts.into_iter().filter(|cut| source.is_char_boundary(*cut) && *cut <= source.len()).collect();
        at.extend([0, source.len()]);
        at.sort_unstable();
        let pieces: Vec<&str> = at.windows(2).map(|pair| &source[pair[0]..pair[1]]).collect();
        prop_assert_eq!(render(&pieces), render(&[&source]));
    }

    #[test]
    fn stripping_the_styles_gives_the_source(source in "([^\\p{Cc}\\p{Cf}]|[*_`~#>\n\t-]|```|\\*\\*){0,80}") {
        prop_assert_eq!(strip(&render(&[&source])), source);
    }
}
