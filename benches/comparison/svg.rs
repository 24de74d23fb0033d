//! The table as a picture for the README: one group of bars for each workload, the shorter the better.
//!
//! Plain SVG without script or outside resources; text and bars are told apart on light and dark grounds.

use std::fmt::Write as _;

use crate::{proxy::Proxy, report::Cell};

/// Draws the median CPU time per request.
pub(crate) fn draw(cells: &[Cell], logs: bool) -> String {
    let medians: Vec<(&Cell, f64)> = cells.iter().filter_map(|cell| Some((cell, cell.median_cpu()?))).collect();
    let longest = medians.iter().map(|(_, cpu)| *cpu).fold(1.0, f64::max);
    let mut body = String::new();
    let mut y = TOP;
    let mut group = None;
    for (cell, cpu) in &medians {
        if group != Some(cell.workload) {
            group = Some(cell.workload);
            y += GROUP;
            // Writing to memory does not fail.
            let _ = writeln!(body, "<text class=\"group\" x=\"0\" y=\"{y}\">{}</text>", cell.workload);
            y += 8;
        }
        let width = cpu / longest * BARS;
        let class = if cell.proxy == Proxy::Portcullis { "ours" } else { "peer" };
        let (text, end) = (y + ROW - 5, LABELS + width + 6.0);
        let _ = writeln!(
            body,
            "<text x=\"{}\" y=\"{text}\" text-anchor=\"end\">{}</text>\
             <rect class=\"{class}\" x=\"{LABELS}\" y=\"{y}\" width=\"{width:.1}\" height=\"{}\"/>\
             <text x=\"{end:.1}\" y=\"{text}\">{cpu:.1}</text>",
            LABELS - 6.0,
            cell.proxy,
            ROW - 3,
        );
        y += ROW;
    }
    let logging = if logs { "on" } else { "off" };
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {}\" role=\"img\" \
         aria-label=\"CPU time per request by proxy\">\n<style>text {{ font: 12px sans-serif; fill: #777; }} \
         .group {{ font-weight: bold; }} .ours {{ fill: #2f6fde; }} .peer {{ fill: #9aa4b2; }}</style>\n\
         <text class=\"group\" x=\"0\" y=\"14\">CPU time of the proxy per request, microseconds (access logs {logging})</text>\n\
         {body}</svg>\n",
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
