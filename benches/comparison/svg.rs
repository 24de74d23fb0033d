//! Figures as a picture for the README: groups of bars, the shorter the better.
//!
//! Plain SVG without script or outside resources; text and bars are told apart on light and dark grounds.

use std::fmt::Write as _;

use crate::report::Cell;

/// One bar.
pub(crate) struct Bar {
    /// Bars of one group stand together, below its name.
    pub(crate) group: String,
    pub(crate) name: String,
    pub(crate) is_ours: bool,
    pub(crate) length: f64,
}

/// The median CPU time per request of each proxy.
pub(crate) fn draw(cells: &[Cell], logs: bool) -> String {
    let bar = |cell: &Cell| {
        Some(Bar {
            group: cell.workload.to_string(),
            name: cell.proxy.to_string(),
            is_ours: cell.proxy.is_ours(),
            length: cell.median_cpu()?,
        })
    };
    let logging = if logs { "on" } else { "off" };
    let title = format!("CPU time of the proxy per request, microseconds (access logs {logging})");
    bars(&title, &cells.iter().filter_map(bar).collect::<Vec<_>>())
}

/// Bars under a title.
pub(crate) fn bars(title: &str, bars: &[Bar]) -> String {
    let longest = bars.iter().map(|bar| bar.length).fold(f64::MIN_POSITIVE, f64::max);
    let mut body = String::new();
    let mut y = TOP;
    let mut group = None;
    for bar in bars {
        if group != Some(&bar.group) {
            group = Some(&bar.group);
            y += GROUP;
            // Writing to memory does not fail.
            let _ = writeln!(body, "<text class=\"group\" x=\"0\" y=\"{y}\">{}</text>", bar.group);
            y += 8;
        }
        let width = bar.length / longest * BARS;
        let class = if bar.is_ours { "ours" } else { "peer" };
        let (text, end) = (y + ROW - 5, LABELS + width + 6.0);
        let _ = writeln!(
            body,
            "<text x=\"{}\" y=\"{text}\" text-anchor=\"end\">{}</text>\
             <rect class=\"{class}\" x=\"{LABELS}\" y=\"{y}\" width=\"{width:.1}\" height=\"{}\"/>\
             <text x=\"{end:.1}\" y=\"{text}\">{:.1}</text>",
            LABELS - 6.0,
            bar.name,
            ROW - 3,
            bar.length,
        );
        y += ROW;
    }
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {}\" role=\"img\" \
         aria-label=\"{title}\">\n<style>text {{ font: 12px sans-serif; fill: #777; }} \
         .group {{ font-weight: bold; }} .ours {{ fill: #2f6fde; }} .peer {{ fill: #9aa4b2; }}</style>\n\
         <text class=\"group\" x=\"0\" y=\"14\">{title}</text>\n{body}</svg>\n",
        y + GROUP,
    )
}

const WIDTH: u32 = 720;
const TOP: u32 = 14;
const GROUP: u32 = 24;
const ROW: u32 = 18;
/// Where the names end and the bars begin.
const LABELS: f64 = 140.0;
/// The longest bar.
const BARS: f64 = 520.0;
