//! Prometheus' text as OpenMetrics: counters are named without `_total` where they are declared and
//! with it where they are given, and the end is said.

/// Converts a page of Prometheus' text format 0.0.4.
pub(super) fn convert(prometheus: &str) -> String {
    let mut out = String::with_capacity(prometheus.len() + 64);
    let mut counter = false;
    let mut lines = prometheus.lines().peekable();
    while let Some(line) = lines.next() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            // What kind it is of says the line below.
            counter = lines.peek().is_some_and(|next| is_counter(next));
            declare(&mut out, "HELP", help, counter);
        } else if let Some(kind) = line.strip_prefix("# TYPE ") {
            counter = is_counter(line);
            declare(&mut out, "TYPE", kind, counter);
        } else if !line.is_empty() && !line.starts_with('#') {
            give(&mut out, line, counter);
        }
    }
    out.push_str("# EOF\n");
    out
}

fn is_counter(line: &str) -> bool {
    line.starts_with("# TYPE ") && line.ends_with(" counter")
}

fn declare(out: &mut String, what: &str, rest: &str, counter: bool) {
    let (name, rest) = rest.split_once(' ').unwrap_or((rest, ""));
    let name = match counter {
        true => name.strip_suffix(TOTAL).unwrap_or(name),
        false => name,
    };
    for part in ["# ", what, " ", name, " ", rest, "\n"] {
        out.push_str(part);
    }
}

fn give(out: &mut String, line: &str, counter: bool) {
    let end = line.find(['{', ' ']).unwrap_or(line.len());
    let (name, rest) = line.split_at(end);
    out.push_str(name);
    if counter && !name.ends_with(TOTAL) {
        out.push_str(TOTAL);
    }
    out.push_str(rest);
    out.push('\n');
}

const TOTAL: &str = "_total";

#[cfg(test)]
mod tests {
    use super::*;

    fn check(prometheus: &str, expected: &str) {
        assert_eq!(convert(prometheus), expected);
    }

    #[test]
    fn counters_lose_their_total_where_they_are_declared() {
        check(
            "# HELP a_total Words.\n# TYPE a_total counter\na_total{x=\"y z\"} 3\na_total 4\n",
            "# HELP a Words.\n# TYPE a counter\na_total{x=\"y z\"} 3\na_total 4\n# EOF\n",
        );
        check(
            "# TYPE a counter\na{x=\"\\n\"} 3\n",
            "# TYPE a counter\na_total{x=\"\\n\"} 3\n# EOF\n",
        );
    }

    #[test]
    fn the_rest_stays_as_it_is() {
        let histogram = "# HELP h Words.\n# TYPE h histogram\nh_bucket{le=\"0.1\"} 1\n\
                         h_bucket{le=\"+Inf\"} 1\nh_sum 0.05\nh_count 1\n";
        check(histogram, &format!("{histogram}# EOF\n"));
        check("# TYPE g gauge\ng 1.5\n", "# TYPE g gauge\ng 1.5\n# EOF\n");
        check("", "# EOF\n");
    }
}
