#include "engine/prefix_tree.h"

#include <algorithm>
#include <queue>

namespace fathom {
namespace {

constexpr int64_t kPage = LatentPool::kPage;

}  // namespace

PrefixTree::~PrefixTree() {
  release(root_);
}

void PrefixTree::release(Node& node) {
  for (auto& [first, nodes] : node.children) {
    for (const auto& child : nodes) release(*child);
  }
  if (node.page >= 0) pool_.give_back(node.page);
}

template <typename Use>
void PrefixTree::walk(std::span<const int32_t> tokens, Use use) const {
  Node* node = &root_;
  while (!tokens.empty()) {
    const auto found = node->children.find(tokens.front());
    if (found == node->children.end()) return;
    Node* best = nullptr;
    size_t most = 0;
    for (const auto& child : found->second) {
      const size_t length = std::min(child->tokens.size(), tokens.size());
      const auto end =
          std::mismatch(tokens.begin(), tokens.begin() + static_cast<std::ptrdiff_t>(length), child->tokens.begin());
      const auto agree = static_cast<size_t>(end.first - tokens.begin());
      if (agree > most) {
        most = agree;
        best = child.get();
      }
    }
    use(*best, static_cast<int64_t>(most));
    if (most < static_cast<size_t>(kPage)) return;
    tokens = tokens.subspan(most);
    node = best;
  }
}

int64_t PrefixTree::match(std::span<const int32_t> tokens) const {
  int64_t total = 0;
  walk(tokens, [&](Node&, int64_t agree) { total += agree; });
  return total;
}

PrefixTree::Shared PrefixTree::share(std::span<const int32_t> tokens, LatentCache& cache) {
  ++time_;
  Shared total;
  walk(tokens, [&](Node& node, int64_t agree) {
    node.used = time_;
    cache.share_page(node.page);
    if (total.with_mtp == total.tokens) total.with_mtp += std::min(agree, node.with_mtp);
    total.tokens += agree;
  });
  return total;
}

void PrefixTree::insert(std::span<const int32_t> tokens, int64_t with_mtp, const LatentCache& cache) {
  ++time_;
  Node* node = &root_;
  for (int64_t p = 0; p * kPage < std::ssize(tokens); ++p) {
    const auto begin = static_cast<size_t>(p * kPage);
    const auto part = tokens.subspan(begin, std::min(tokens.size() - begin, static_cast<size_t>(kPage)));
    const int64_t part_with_mtp = std::clamp<int64_t>(with_mtp - p * kPage, 0, std::ssize(part));
    const int64_t page = cache.ids()[static_cast<size_t>(p)];
    auto& nodes = node->children[part.front()];
    // One of the two is the other's beginning.
    const auto found = std::find_if(nodes.begin(), nodes.end(), [&](const auto& child) {
      const auto common = static_cast<std::ptrdiff_t>(std::min(part.size(), child->tokens.size()));
      return std::equal(part.begin(), part.begin() + common, child->tokens.begin());
    });
    if (found == nodes.end()) {
      auto child = std::make_unique<Node>();
      child->parent = node;
      ++count_;
      node = nodes.emplace_back(std::move(child)).get();
    } else {
      node = found->get();
      node->used = time_;
      const bool longer = part.size() > node->tokens.size();
      const bool readier = part.size() == node->tokens.size() && part_with_mtp > node->with_mtp;
      if (!longer && !readier) continue;
    }
    pool_.share(page);
    if (node->page >= 0) pool_.give_back(node->page);
    node->tokens.assign(part.begin(), part.end());
    node->page = page;
    node->with_mtp = part_with_mtp;
    node->used = time_;
  }
}

bool PrefixTree::free_pages(int64_t pages) {
  if (pool_.free_pages() >= pages) return true;
  // Leaves that nobody else holds, those first that were asked for longest ago; a page may become one when what
  // follows it has gone.
  const auto later = [](const Node* a, const Node* b) { return a->used > b->used; };
  std::priority_queue<Node*, std::vector<Node*>, decltype(later)> leaves(later);
  const auto add = [&](Node& node) {
    if (node.children.empty() && node.page >= 0 && pool_.references(node.page) == 1) leaves.push(&node);
  };
  const auto look = [&](const auto& self, Node& node) -> void {
    for (auto& [first, nodes] : node.children) {
      for (const auto& child : nodes) self(self, *child);
    }
    add(node);
  };
  look(look, root_);
  while (pool_.free_pages() < pages && !leaves.empty()) {
    Node* oldest = leaves.top();
    leaves.pop();
    pool_.give_back(oldest->page);
    --count_;
    Node* parent = oldest->parent;
    const auto list = parent->children.find(oldest->tokens.front());
    std::erase_if(list->second, [&](const auto& child) { return child.get() == oldest; });
    if (list->second.empty()) parent->children.erase(list);
    add(*parent);
  }
  return pool_.free_pages() >= pages;
}

}  // namespace fathom
