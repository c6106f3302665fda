// Rust: traits, closures, iterators, collections, strings, big sums, panics that end the process, drops in order.
use std::cell::RefCell;
use std::collections::{BTreeMap, BinaryHeap, HashMap, VecDeque};
use std::fmt::Write as _;
use std::io::{self, BufRead, Read, Seek, SeekFrom, Write};
use std::rc::{Rc, Weak};

trait Shape { fn area(&self) -> f64; fn name(&self) -> String { "shape".into() } }
struct Square(f64);
struct Ring { inner: f64, outer: f64 }
impl Shape for Square { fn area(&self) -> f64 { (0..7).map(|i| self.0 * self.0 / (i + 1) as f64).sum() } }
impl Shape for Ring {
    fn area(&self) -> f64 { (self.outer.powi(2) - self.inner.powi(2)) * std::f64::consts::PI }
    fn name(&self) -> String { format!("ring {:.3}", self.inner) }
}
struct Loud(&'static str);
impl Drop for Loud { fn drop(&mut self) { println!("dropped {}", self.0); } }
struct Node { value: u64, children: RefCell<Vec<Rc<Node>>>, parent: RefCell<Weak<Node>> }

fn tree(depth: u64, value: u64) -> Rc<Node> {
    let node = Rc::new(Node { value, children: RefCell::new(vec![]), parent: RefCell::new(Weak::new()) });
    if depth > 0 {
        for i in 0..3 {
            let child = tree(depth - 1, value * 3 + i);
            *child.parent.borrow_mut() = Rc::downgrade(&node);
            node.children.borrow_mut().push(child);
        }
    }
    node
}
fn total(node: &Node) -> u64 {
    let up = node.parent.borrow().upgrade().map_or(1, |p| p.value);
    node.children.borrow().iter().fold(node.value ^ up, |sum, child| sum.wrapping_mul(31).wrapping_add(total(child)))
}
fn paths(edges: &HashMap<u32, Vec<(u32, u64)>>, n: u32) -> Vec<u64> {
    let mut best = vec![u64::MAX; n as usize];
    let mut heap = BinaryHeap::from([(std::cmp::Reverse(0u64), 0u32)]);
    while let Some((std::cmp::Reverse(way), at)) = heap.pop() {
        if way >= best[at as usize] { continue; }
        best[at as usize] = way;
        for &(to, cost) in edges.get(&at).into_iter().flatten() { heap.push((std::cmp::Reverse(way + cost), to)); }
    }
    best
}
fn main() -> io::Result<()> {
    let _outer = Loud("outer");
    let shapes: Vec<Box<dyn Shape>> = (0..40)
        .map(|i| -> Box<dyn Shape> { if i % 2 == 0 { Box::new(Square(i as f64)) } else { Box::new(Ring { inner: i as f64, outer: i as f64 * 1.5 }) } })
        .collect();
    println!("{} {}", shapes.iter().map(|s| s.area()).sum::<f64>(), shapes.iter().map(|s| s.name().len()).sum::<usize>());
    println!("{}", total(&tree(6, 1)));
    let mut edges: HashMap<u32, Vec<(u32, u64)>> = HashMap::new();
    let mut seed = 7u64;
    for _ in 0..800 {
        seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        edges.entry((seed >> 33) as u32 % 100).or_default().push(((seed >> 43) as u32 % 100, seed >> 58));
    }
    println!("{:?}", &paths(&edges, 100)[..12]);
    let mut words: BTreeMap<String, usize> = BTreeMap::new();
    for line in io::stdin().lock().lines() {
        for word in line?.split_whitespace() { *words.entry(word.to_lowercase()).or_insert(0) += 1; }
    }
    println!("{} {:?}", words.len(), words.iter().max_by_key(|(word, n)| (**n, std::cmp::Reverse((*word).clone()))));
    let mut queue: VecDeque<u128> = (1..50).collect();
    for i in 0..500u128 { let a = queue.pop_front().unwrap(); queue.push_back(a.wrapping_mul(a + i) % ((1 << 100) - 3)); }
    println!("{:?}", queue.iter().take(2).collect::<Vec<_>>());
    for folder in std::env::args().skip(1) {
        let path = format!("{folder}/rust");
        let mut file = std::fs::OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&path)?;
        for i in 0..200 { writeln!(file, "{i:04} {}", "é".repeat(i % 9))?; }
        file.seek(SeekFrom::Start(0))?;
        let mut text = String::new();
        file.read_to_string(&mut text)?;
        println!("{} {} {:?}", text.len(), text.lines().count(), std::fs::metadata(&path)?.len());
        std::fs::rename(&path, path.clone() + "2")?;
        println!("{:?} {}", std::fs::read(&path).map_err(|e| e.kind()), std::fs::read_dir(&folder)?.count());
        std::fs::remove_file(path + "2")?;
    }
    let mut text = String::new();
    for i in 0..60 { write!(text, "{:>5}|{:<4}|{:e}|{:?};", i, i * i, (i as f32).sqrt(), (i as f64 / 7.0)).unwrap(); }
    let mut digits: Vec<_> = text.chars().filter_map(|c| c.to_digit(10)).collect();
    digits.sort_by(|a, b| (b % 5).cmp(&(a % 5)).then(a.cmp(b)));
    println!("{} {:?}", text.len(), &digits[..9]);
    let _inner = Loud("inner");
    let checked = [i32::MAX, 5].iter().try_fold(0i32, |a, b| a.checked_add(*b));
    println!("{checked:?}");
    if checked.is_none() { let nothing: Option<u8> = None; nothing.expect("as intended"); }
    Ok(())
}
