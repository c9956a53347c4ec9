//! Text in HTML: escaped, always. Numbers with groups of three.

use core::fmt;

use tdx_operator::input::is_steering;

/// Text that may hold anything.
pub(super) struct Text<'a>(pub(super) &'a str);

impl fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.0.chars() {
            match c {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '"' => f.write_str("&quot;")?,
                '\'' => f.write_str("&#39;")?,
                c if c.is_control() && c != '\n' || is_steering(c) => f.write_str("&#xfffd;")?,
                c => fmt::Write::write_char(f, c)?,
            }
        }
        Ok(())
    }
}

/// `134,217,728`.
pub(super) struct Count(pub(super) u64);

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = self.0.to_string();
        for (index, digit) in digits.chars().enumerate() {
            if index > 0 && (digits.len() - index).is_multiple_of(3) {
                f.write_str(",")?;
            }
            fmt::Write::write_char(f, digit)?;
        }
        Ok(())
    }
}

/// `1 CPU`, `2 CPUs`.
pub(super) fn counted(count: u64, one: &str, many: &str) -> String {
    format!("{} {}", Count(count), if count == 1 { one } else { many })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_gets_out_of_its_element() {
        let text = Text("<script>alert(\"x\")</script> & 'y'\u{1b}[31m").to_string();
        assert_eq!(text, "&lt;script&gt;alert(&quot;x&quot;)&lt;/script&gt; &amp; &#39;y&#39;&#xfffd;[31m");
        assert_eq!((Count(0).to_string(), Count(1_234_567).to_string()), ("0".to_owned(), "1,234,567".to_owned()));
        assert_eq!(
            (counted(1, "CPU", "CPUs"), counted(1000, "CPU", "CPUs")),
            ("1 CPU".to_owned(), "1,000 CPUs".to_owned())
        );
    }
}
