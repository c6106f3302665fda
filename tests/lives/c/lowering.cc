// C++ without exceptions: virtual calls, templates, the standard library's containers, closures, moves, static objects.
#include <algorithm>
#include <cstdio>
#include <functional>
#include <map>
#include <memory>
#include <numeric>
#include <string>
#include <unordered_map>
#include <vector>

struct Loud {
  std::string name;
  explicit Loud(std::string n) : name(std::move(n)) { std::printf("begin %s\n", name.c_str()); }
  ~Loud() { std::printf("end %s\n", name.c_str()); }
};
static Loud first("first");
struct Shape {
  virtual double area() const = 0;
  virtual ~Shape() = default;
};
struct Square : Shape {
  double side;
  explicit Square(double s) : side(s) {}
  double area() const override { double a = 0; for (int i = 0; i < 5; i++) a += side * side / 5; return a; }
};
struct Many : Shape {
  std::vector<std::unique_ptr<Shape>> parts;
  double area() const override {
    return std::accumulate(parts.begin(), parts.end(), 0.0, [](double sum, auto &p) { return sum + p->area(); });
  }
};
static std::unique_ptr<Shape> grow(int depth) {
  if (!depth) return std::make_unique<Square>(1.25);
  auto many = std::make_unique<Many>();
  for (int i = 0; i < 3; i++) many->parts.push_back(grow(depth - 1));
  return many;
}
int main() {
  Loud second("second");
  std::printf("%.17g\n", grow(4)->area());
  std::map<std::string, std::vector<int>> words;
  std::unordered_map<int, std::string> back;
  for (int i = 0; i < 200; i++) {
    words["w" + std::to_string(i * 7919 % 31)].push_back(i);
    back[i * 31 % 97] += char('a' + i % 26);
  }
  for (auto &[word, places] : words) std::printf("%s:%zu ", word.c_str(), places.size());
  std::size_t total = 0;
  for (int i = 0; i < 97; i++) total = total * 7 + back[i].size();
  std::printf("\n%zu\n", total);
  std::vector<std::string> sorted;
  for (auto &entry : back) sorted.push_back(entry.second + std::to_string(entry.first));
  int compared = 0;
  std::stable_sort(sorted.begin(), sorted.end(), [&](auto &a, auto &b) { compared++; return a.back() != b.back() ? a.back() < b.back() : a < b; });
  std::function<long(long)> chain = [](long n) { return n; };
  for (int i = 0; i < 30; i++) chain = [chain, i](long n) { return chain(n * 3 % 1000003 + i); };
  std::printf("%s %s %d %ld\n", sorted.front().c_str(), sorted.back().c_str(), compared > 0, chain(5));
  return 4;
}
