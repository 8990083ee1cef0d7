//! Text for people: styled lines, cut to a width, with and without colour.

use std::fmt::Write as _;

/// How a piece of text looks on a terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Style {
    /// As the terminal shows text.
    Plain,
    /// What a reader looks for.
    Bold,
    /// What a reader may skip.
    Dim,
    /// As it should be.
    Good,
    /// Somebody may have to act.
    Bad,
}

impl Style {
    /// The ANSI sequence (ECMA-48 §8.3.117, SGR) that begins it; empty for plain text.
    fn sequence(self) -> &'static str {
        match self {
            Self::Plain => "",
            Self::Bold => "\x1b[1m",
            Self::Dim => "\x1b[2m",
            Self::Good => "\x1b[32m",
            Self::Bad => "\x1b[31m",
        }
    }
}

/// One line of styled pieces.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Line(Vec<(Style, String)>);

impl Line {
    /// A line of one style.
    pub(crate) fn new(style: Style, text: impl Into<String>) -> Self {
        Self(vec![(style, text.into())])
    }

    /// Adds a piece at the end.
    pub(crate) fn push(&mut self, style: Style, text: impl Into<String>) {
        self.0.push((style, text.into()));
    }

    /// How many columns it takes: one for each character.
    pub(crate) fn width(&self) -> usize {
        self.0.iter().map(|(_, text)| text.chars().count()).sum()
    }

    /// The text, cut with `…` where it is longer than `width` columns; with ANSI sequences when `colour`.
    ///
    /// Control characters become `?`, so that no text from outside can move the cursor.
    pub(crate) fn render(&self, width: usize, colour: bool) -> String {
        let cut = self.width() > width;
        let mut left = if cut { width.saturating_sub(1) } else { width };
        let mut out = String::new();
        for (style, text) in &self.0 {
            let piece: String = text.chars().take(left).map(|c| if c.is_control() { '?' } else { c }).collect();
            left -= piece.chars().count();
            match style.sequence() {
                sequence if colour && !sequence.is_empty() && !piece.is_empty() => {
                    let _infallible = write!(out, "{sequence}{piece}\x1b[0m");
                }
                _ => out.push_str(&piece),
            }
        }
        if cut && width > 0 {
            out.push('…');
        }
        out
    }
}

/// Cuts a text to `width` columns, ending in `…` where something is left out.
pub(crate) fn cut(text: &str, width: usize) -> String {
    Line::new(Style::Plain, text).render(width, false)
}

/// A share from 0 to 1 as a percentage with one decimal; 100 only when it is all.
pub(crate) fn percent(share: f64) -> String {
    let shown = if share < 1.0 { (share * 1000.0).round().min(999.0) / 10.0 } else { 100.0 };
    format!("{shown:.1} %")
}

/// Seconds as three figures with a unit: `870 µs`, `12.3 ms`, `4.56 s`.
pub(crate) fn duration(seconds: f64) -> String {
    let (value, unit) = if seconds < 0.001 {
        (seconds * 1e6, "µs")
    } else if seconds < 1.0 {
        (seconds * 1e3, "ms")
    } else {
        (seconds, "s")
    };
    if value < 10.0 {
        format!("{value:.2} {unit}")
    } else if value < 100.0 {
        format!("{value:.1} {unit}")
    } else {
        format!("{value:.0} {unit}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_line_is_cut_to_the_width() {
        let mut line = Line::new(Style::Bold, "reviews");
        line.push(Style::Plain, " v1");
        assert_eq!(line.render(10, false), "reviews v1");
        assert_eq!(line.render(8, false), "reviews…");
        assert_eq!(line.render(3, false), "re…");
        assert_eq!(line.render(0, false), "");
    }

    #[test]
    fn colour_takes_no_columns() {
        let line = Line::new(Style::Bad, "lost");
        assert_eq!(line.render(4, true), "\x1b[31mlost\x1b[0m");
        assert_eq!(line.width(), 4);
    }

    #[test]
    fn text_from_outside_cannot_move_the_cursor() {
        assert_eq!(Line::new(Style::Plain, "a\x1b[2Jb\rc").render(80, true), "a?[2Jb?c");
    }

    #[test]
    fn numbers_read_well() {
        assert_eq!(percent(0.905), "90.5 %");
        assert_eq!(percent(0.99999), "99.9 %");
        assert_eq!(percent(1.0), "100.0 %");
        assert_eq!(duration(0.000_87), "870 µs");
        assert_eq!(duration(0.0123), "12.3 ms");
        assert_eq!(duration(4.56), "4.56 s");
    }
}
