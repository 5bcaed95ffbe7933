// One thread's way through a span. All threads go through the same phases, and wait for each other between two of them
// where one reads what another wrote:
//
//   norm | qkv | rotate, store | attention | out | add, norm (, route) | gate, up, activation | down | add, next norm...
//
// Linear layers are shared out by outputs, attention by tokens and key heads, the rest by tokens. A single token is
// added and normed by every thread for itself, and rotated by whoever attends: three waits less.
#pragma once

#include "attention.h"
#include "tokens.h"

namespace swarm {
namespace {

struct Range {
    int begin, end;
};

struct Walker {
    const Walk& walk;
    const Shape& shape;
    const Buffers& buffers;
    const int thread, threads;
    const bool is_alone;  // this thread's lane is its own
    Lane& lane;
    float* scratch;

    Walker(const Walk& walk, int thread)
        : walk(walk), shape(walk.shape), buffers(walk.buffers), thread(thread), threads(walk.pool.threads()),
          is_alone(buffers.num_lanes == threads), lane(buffers.lanes[buffers.num_lanes == threads ? thread : 0]),
          scratch(buffers.scratch + thread * buffers.scratch_floats) {}

    void wait() const { walk.pool.barrier(thread); }

    Range share(int count) const {
        return {static_cast<int>(static_cast<int64_t>(count) * thread / threads),
                static_cast<int>(static_cast<int64_t>(count) * (thread + 1) / threads)};
    }

    Range own_tokens() const { return is_alone ? Range{0, walk.step.tokens} : share(walk.step.tokens); }

    void wait_for_tokens() const {
        if (!is_alone) wait();
    }

    Operand part_of(const Operand& whole, int row, int width, int column) const {
        const size_t at = static_cast<size_t>(row) * width + column;
        return {whole.values ? whole.values + at : nullptr, whole.codes + at, whole.scales + at / GROUP, whole.sums + at / GROUP};
    }

    void quantise(const Operand& x, int width) const {
        walk.kernels.quantize(x.values, width, x.codes, x.scales, x.sums);
    }

    Activations input(const Operand& x, int rows, int width) const {
        return {rows, width, x.values, x.codes, x.scales, x.sums};
    }

    // This thread's outputs of y = x W^T.
    void multiply_share(const Weight& weight, const Operand& x, int rows, float* y) const {
        const Range mine = share(panels(weight.out));
        walk.kernels.linear(weight, input(x, rows, weight.in), y, weight.out, mine.begin, mine.end);
    }

    void norm_token(int token, const float* weight, bool wants_codes) const {
        const Operand normed = part_of(lane.normed, token, shape.hidden, 0);
        const float* hidden = lane.hidden + static_cast<size_t>(token) * shape.hidden;
        normalise(hidden, weight, shape.hidden, shape.epsilon, normed.values);
        if (wants_codes) quantise(normed, shape.hidden);
    }

    // hidden += what a half computed, through its norm if it has one.
    void absorb(int token, const float* after_norm) const {
        const size_t at = static_cast<size_t>(token) * shape.hidden;
        const float* branch = buffers.branch + at;
        if (after_norm) {
            float* normed = lane.normed.values + at;
            normalise(branch, after_norm, shape.hidden, shape.epsilon, normed);
            branch = normed;
        }
        add(lane.hidden + at, branch, shape.hidden);
    }

    void begin_block(int index) const {
        const Block& block = walk.blocks[index];
        const Range mine = own_tokens();
        for (int token = mine.begin; token < mine.end; ++token) {
            if (index == walk.step.first_block)
                read_hidden(walk.step, token, shape.hidden, lane.hidden + static_cast<size_t>(token) * shape.hidden);
            else
                absorb(token, walk.blocks[index - 1].after_feed_norm);
            norm_token(token, block.norm, block.qkv.format != BFLOAT16);
        }
        wait_for_tokens();
    }

    // Turn and store all tokens before any of them is looked at by the others of its sequence.
    template <class Number>
    void place_tokens(int index) const {
        const Range mine = share(walk.step.tokens);
        int token = 0;
        for (int r = 0; r < walk.step.num_rows; ++r) {
            const RaggedRow& row = walk.step.rows[r];
            for (int i = 0; i < row.length; ++i, ++token) {
                if (token < mine.begin || token >= mine.end) continue;
                const int position = row.position + i;
                for (int kv = 0; kv < shape.kv_heads; ++kv)
                    place<Number>(walk, index, token, position, walk.step.pages[row.first_page + position / PAGE], kv);
            }
        }
        wait();
    }

    bool attends_in_groups() const { return shape.heads / shape.kv_heads * shape.head % GROUP == 0; }

    template <class Number>
    void attend_item(int index, const Item& item, const Item* after, bool places) const {
        if (places)
            place<Number>(walk, index, item.begin, item.position, item.pages[item.position / PAGE], item.kv_head);
        attend<Number>(walk, item, after, index, scratch);
        if (walk.blocks[index].out.format == BFLOAT16 || !attends_in_groups()) return;
        const int width = shape.heads * shape.head, group = width / shape.kv_heads;
        for (int token = item.begin; token < item.end; ++token)
            quantise(part_of(buffers.attended, token, width, item.kv_head * group), group);
    }

    // This thread's share of who attends, in order.
    template <class Visit>
    void visit_items(Visit visit) const {
        const int group = shape.heads / shape.kv_heads, most = ITEM_ROWS > group ? ITEM_ROWS / group : 1;
        int token = 0, turn = 0;
        for (int r = 0; r < walk.step.num_rows; ++r) {
            const RaggedRow& row = walk.step.rows[r];
            for (int i = 0; i < row.length; i += most) {
                const int now = row.length - i < most ? row.length - i : most;
                for (int kv = 0; kv < shape.kv_heads; ++kv)
                    if (turn++ % threads == thread)
                        visit(Item{token + i, token + i + now, row.position + i, walk.step.pages + row.first_page, kv});
            }
            token += row.length;
        }
    }

    template <class Number>
    void attend_rows(int index) const {
        const bool places = walk.step.num_rows == walk.step.tokens;  // each token is its sequence's only one
        if (!places) place_tokens<Number>(index);
        Item held{};  // back by one: memory is asked for early
        visit_items([&](const Item& item) {
            if (held.pages) attend_item<Number>(index, held, &item, places);
            held = item;
        });
        if (held.pages) attend_item<Number>(index, held, nullptr, places);
        wait();
    }

    void project_out(int index) const {
        const Block& block = walk.blocks[index];
        const int width = shape.heads * shape.head;
        if (block.out.format != BFLOAT16 && !attends_in_groups()) {
            const Range mine = share(walk.step.tokens);
            for (int token = mine.begin; token < mine.end; ++token)
                quantise(part_of(buffers.attended, token, width, 0), width);
            wait();
        }
        multiply_share(block.out, buffers.attended, walk.step.tokens, buffers.branch);
        wait();
    }

    void begin_feed(int index) const {
        const Block& block = walk.blocks[index];
        bool wants_codes = false;
        for (int e = 0; e < (block.router ? shape.experts : 1); ++e)
            wants_codes |= block.feeds[e].gate.format != BFLOAT16 || block.feeds[e].up.format != BFLOAT16;
        const Range mine = own_tokens();
        for (int token = mine.begin; token < mine.end; ++token) {
            absorb(token, block.after_norm);
            norm_token(token, block.feed_norm, wants_codes);
            if (block.router)
                choose(walk, block.router, lane.normed.values + static_cast<size_t>(token) * shape.hidden,
                       lane.choice + token * shape.chosen, lane.shares + token * shape.chosen);
        }
        wait_for_tokens();
    }

    // activation(gate) * up of some outputs of all rows, in scratch, then where `down` reads it.
    void activate(const Feed& feed, float* gate, const float* up, int rows, int stride, int column, int width) const {
        for (int row = 0; row < rows; ++row, gate += stride, up += stride) {
            for (int i = 0; i < width; i += LANES) {
                const Floats x = load(gate + i);
                store(gate + i, (shape.gelu ? gelu(x) : silu(x)) * load(up + i));
            }
            Operand inner = part_of(buffers.inner, row, shape.inner, column);
            if (feed.down.format == BFLOAT16) {
                convert(inner.values, gate, width);
            } else {
                inner.values = gate;
                quantise(inner, width);
            }
        }
    }

    // This thread's inner outputs, a few panels at a time so that they stay in its cache.
    void open_feed(const Feed& feed, const Operand& x, int rows) const {
        const int all = panels(shape.inner), pairs = (all + 1) / 2;
        const Range mine = share(pairs);  // pairs of panels: a group of codes has one owner
        int now = static_cast<int>(feed_floats(rows)) / (rows * PANEL) / 2 * 2;
        const int last = mine.end * 2 < all ? mine.end * 2 : all;
        float *gate = scratch, *up = scratch + feed_floats(rows);
        for (int panel = mine.begin * 2; panel < last; panel += now) {
            if (now > last - panel) now = last - panel;
            const int column = panel * PANEL, stride = now * PANEL;
            const int width = column + stride < shape.inner ? stride : shape.inner - column;
            walk.kernels.linear(feed.gate, input(x, rows, shape.hidden), gate - column, stride, panel, panel + now);
            walk.kernels.linear(feed.up, input(x, rows, shape.hidden), up - column, stride, panel, panel + now);
            activate(feed, gate, up, rows, stride, column, width);
        }
        wait();
    }

    int members_of(int expert, int32_t* members) const {
        int count = 0;
        for (int token = 0; token < walk.step.tokens; ++token)
            for (int i = 0; i < shape.chosen; ++i)
                if (lane.choice[token * shape.chosen + i] == expert) members[count++] = token;
        return count;
    }

    float share_of(int token, int expert) const {
        for (int i = 0; i < shape.chosen; ++i)
            if (lane.choice[token * shape.chosen + i] == expert) return lane.shares[token * shape.chosen + i];
        return 0.0f;
    }

    // Copy the inputs of the tokens that chose an expert next to each other.
    void gather(const int32_t* members, int count) const {
        const Range mine = share(count);
        const size_t width = shape.hidden;
        for (int i = mine.begin; i < mine.end; ++i) {
            const Operand from = part_of(lane.normed, members[i], shape.hidden, 0);
            const Operand to = part_of(buffers.gathered, i, shape.hidden, 0);
            std::memcpy(to.values, from.values, width * sizeof(float));
            std::memcpy(to.codes, from.codes, width);
            std::memcpy(to.scales, from.scales, width / GROUP * sizeof(float));
            std::memcpy(to.sums, from.sums, width / GROUP * sizeof(float));
        }
        wait();
    }

    // Each thread adds up its own outputs of all experts, in the order of the experts.
    void run_experts(const Block& block) const {
        const Weight& down = block.feeds[0].down;
        const Range mine = share(panels(down.out));
        const int column = mine.begin * PANEL, end = mine.end * PANEL < shape.hidden ? mine.end * PANEL : shape.hidden;
        const size_t width = shape.hidden;
        int32_t* members = buffers.members + static_cast<size_t>(thread) * walk.step.tokens;
        bool is_first = true;
        for (int e = 0; e < shape.experts; ++e) {
            const int count = members_of(e, members);
            if (count == 0) continue;
            const bool is_all = count == walk.step.tokens;
            if (!is_all) gather(members, count);
            open_feed(block.feeds[e], is_all ? lane.normed : buffers.gathered, count);
            // Not before: until `open_feed` has waited, others may still add the branch of attention.
            for (int token = 0; is_first && token < walk.step.tokens && end > column; ++token)
                std::memset(buffers.branch + token * width + column, 0, (end - column) * sizeof(float));
            is_first = false;
            multiply_share(block.feeds[e].down, buffers.inner, count, buffers.part);
            for (int i = 0; i < count && end > column; ++i)
                add_scaled(buffers.branch + members[i] * width + column, buffers.part + i * width + column,
                           share_of(members[i], e), end - column);
            wait();  // the next expert's inner outputs would overwrite what others still read
        }
    }

    void run_block(int index) const {
        const Block& block = walk.blocks[index];
        begin_block(index);
        multiply_share(block.qkv, lane.normed, walk.step.tokens, buffers.qkv);
        wait();
        if (shape.narrow_cache)
            attend_rows<uint16_t>(index);
        else
            attend_rows<float>(index);
        project_out(index);
        begin_feed(index);
        if (block.router) return run_experts(block);
        open_feed(block.feeds[0], lane.normed, walk.step.tokens);
        multiply_share(block.feeds[0].down, buffers.inner, walk.step.tokens, buffers.branch);
        wait();
    }

    void run() const {
        for (int index = walk.step.first_block; index < walk.step.last_block; ++index) run_block(index);
        const Range mine = share(walk.step.tokens);
        for (int token = mine.begin; token < mine.end; ++token) {
            absorb(token, walk.blocks[walk.step.last_block - 1].after_feed_norm);
            write_hidden(walk.step, token, shape.hidden, lane.hidden + static_cast<size_t>(token) * shape.hidden);
        }
    }
};

}  // namespace
}  // namespace swarm
