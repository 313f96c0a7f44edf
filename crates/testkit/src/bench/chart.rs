//! Bar charts as SVG: one file that needs nothing else, readable on white and on dark pages.

use std::fmt::Write as _;

use super::statistics::figure;

const WIDTH: f64 = 860.0;
const LABEL_WIDTH: f64 = 250.0;
const NOTE_WIDTH: f64 = 170.0;
const TOP: f64 = 62.0;
const ROW: f64 = 30.0;
const BAR: f64 = 18.0;
const BOTTOM: f64 = 18.0;
const OURS: &str = "#2f6f4f";
const THEIRS: &str = "#9aa5b1";

/// One bar.
#[derive(Debug, Clone, PartialEq)]
pub struct Bar {
    /// What it stands for.
    pub label: String,
    /// Its length, the median of the rounds; not negative.
    pub value: f64,
    /// The smallest and the largest of the rounds, drawn as a thin line.
    pub range: Option<(f64, f64)>,
    /// What is said behind the value.
    pub note: String,
    /// It is drawn in the colour of what is measured, not of what it is compared with.
    pub ours: bool,
}

/// A chart of horizontal bars.
#[derive(Debug, Clone, PartialEq)]
pub struct BarChart {
    /// The first line.
    pub title: String,
    /// The second line, smaller.
    pub subtitle: String,
    /// The unit behind every value.
    pub unit: String,
    /// From top to bottom.
    pub bars: Vec<Bar>,
}

impl BarChart {
    /// The chart as an SVG document.
    #[must_use]
    pub fn to_svg(&self) -> String {
        #[expect(clippy::cast_precision_loss, reason = "a chart has few bars")]
        let height = TOP + ROW * self.bars.len() as f64 + BOTTOM;
        let largest =
            self.bars.iter().map(|bar| bar.range.map_or(bar.value, |(_, high)| high.max(bar.value)));
        let largest = largest.fold(0.0, f64::max);
        let scale = if largest > 0.0 { (WIDTH - LABEL_WIDTH - NOTE_WIDTH) / largest } else { 0.0 };
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" \
             height=\"{height}\" font-family=\"system-ui, sans-serif\" font-size=\"13\" role=\"img\" \
             aria-label=\"{title}\">\n<rect width=\"{WIDTH}\" height=\"{height}\" fill=\"#ffffff\"/>\n\
             <text x=\"16\" y=\"26\" font-size=\"17\" font-weight=\"600\" fill=\"#1b1f24\">{title}</text>\n\
             <text x=\"16\" y=\"46\" font-size=\"12\" fill=\"#57606a\">{subtitle}</text>\n",
            title = escaped(&self.title),
            subtitle = escaped(&self.subtitle),
        );
        let mut top = TOP;
        for bar in &self.bars {
            self.draw(&mut svg, bar, top, scale);
            top += ROW;
        }
        svg.push_str("</svg>\n");
        svg
    }

    fn draw(&self, svg: &mut String, bar: &Bar, top: f64, scale: f64) {
        let length = (bar.value * scale).max(1.0);
        let (middle, text) = (top + BAR / 2.0, top + BAR / 2.0 + 4.5);
        let (fill, weight) = if bar.ours { (OURS, "600") } else { (THEIRS, "400") };
        let mut end = LABEL_WIDTH + length;
        // Writing to a String does not fail.
        let _ = writeln!(
            svg,
            "<text x=\"{:.1}\" y=\"{text:.1}\" text-anchor=\"end\" font-weight=\"{weight}\" \
             fill=\"#1b1f24\">{}</text>\n<rect x=\"{LABEL_WIDTH}\" y=\"{top:.1}\" width=\"{length:.1}\" \
             height=\"{BAR}\" rx=\"2\" fill=\"{fill}\"/>",
            LABEL_WIDTH - 8.0,
            escaped(&bar.label),
        );
        if let Some((low, high)) = bar.range {
            let (from, to) = (LABEL_WIDTH + low * scale, LABEL_WIDTH + high * scale);
            let _ = writeln!(
                svg,
                "<line x1=\"{from:.1}\" y1=\"{middle:.1}\" x2=\"{to:.1}\" y2=\"{middle:.1}\" stroke=\"#1b1f24\" \
                 stroke-width=\"1.5\"/>",
            );
            end = end.max(to);
        }
        let _ = writeln!(
            svg,
            "<text x=\"{:.1}\" y=\"{text:.1}\" fill=\"#1b1f24\">{} {}<tspan fill=\"#57606a\">{}</tspan></text>",
            end + 8.0,
            figure(bar.value),
            escaped(&self.unit),
            if bar.note.is_empty() { String::new() } else { format!("  {}", escaped(&bar.note)) },
        );
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bar(label: &str, value: f64) -> Bar {
        Bar { label: label.to_owned(), value, range: None, note: String::new(), ours: false }
    }

    fn widths(svg: &str) -> Vec<f64> {
        let bars = svg.lines().filter(|line| line.starts_with("<rect x="));
        bars.map(|line| line.split("width=\"").nth(1).unwrap().split('"').next().unwrap().parse().unwrap())
            .collect()
    }

    #[test]
    fn bars_are_as_long_as_their_values() {
        let chart = BarChart {
            title: "push <fast> & \"safe\"".to_owned(),
            subtitle: String::new(),
            unit: "MiB/s".to_owned(),
            bars: vec![bar("a", 100.0), Bar { range: Some((20.0, 200.0)), ..bar("b", 50.0) }, bar("c", 0.0)],
        };
        let svg = chart.to_svg();
        let [a, b, c] = widths(&svg)[..] else { panic!("{svg}") };
        assert!((a / b - 2.0).abs() < 0.01, "{a} {b}");
        assert!(a < WIDTH / 2.0 && c >= 1.0, "the largest round has to fit too");
        assert!(svg.contains("push &lt;fast&gt; &amp; &quot;safe&quot;"));
        assert!(svg.contains("100 MiB/s") && svg.contains("50.0 MiB/s"));
        assert_eq!(svg.matches("<line ").count(), 1);
        assert!(svg.starts_with("<svg ") && svg.trim_end().ends_with("</svg>"));
    }

    #[test]
    fn a_chart_of_nothing_is_still_a_chart() {
        let chart = BarChart { title: "t".into(), subtitle: "s".into(), unit: "u".into(), bars: vec![] };
        assert!(chart.to_svg().contains("</svg>"));
        let zero = BarChart { bars: vec![bar("a", 0.0)], ..chart };
        assert!(!zero.to_svg().contains("NaN"));
    }
}
