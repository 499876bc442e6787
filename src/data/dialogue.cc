#include "data/dialogue.h"

#include <algorithm>
#include <array>

#include "data/grammar.h"
#include "data/story.h"
#include "data/words.h"

namespace fathom {
namespace {

/// How often an answer that has thoughts shows them.
constexpr double thinking_rate = 0.4;

void say(std::vector<ChatMessage>& messages, std::string user, std::string assistant) {
  ChatMessage question;
  question.role = "user";
  question.content = std::move(user);
  ChatMessage answer;
  answer.role = "assistant";
  answer.content = std::move(assistant);
  messages.push_back(std::move(question));
  messages.push_back(std::move(answer));
}

void say(std::vector<ChatMessage>& messages, const Exercise& exercise, bool thinking) {
  say(messages, exercise.question,
      thinking && !exercise.thoughts.empty() ? "<think>" + exercise.thoughts + "</think>" + exercise.answer
                                             : exercise.answer);
}

void greet(Random& random, std::vector<ChatMessage>& messages) {
  const Grammar grammar(random);
  say(messages, grammar.expand("{Hello|Hi|Good morning|Good evening|Hello there}{!|.}"),
      grammar.expand("{Hello|Hi}! {How can I help you?|What can I do for you?|What would you like to do?}"));
}

void introduce(Random& random, std::vector<ChatMessage>& messages) {
  const Grammar grammar(random);
  switch (random.below(4)) {
    case 0:
      say(messages, grammar.expand("{What can you do?|What are you good at?|How can you help me?}"),
          grammar.expand(
              "I can {tell stories|tell you a story}, {add numbers|work out sums} step by step, sort lists, "
              "remember facts {from|in} a text, and {say what a small program prints|read small programs}."));
      break;
    case 1:
      say(messages, grammar.expand("{Who are you?|What are you?|What is your name?}"),
          "I am Fathom, a very small language model.");
      break;
    case 2:
      say(messages, grammar.expand("{What can you not do?|What do you not know?|Do you know everything?}"),
          "I am small. I only know a little world of stories, numbers, lists and small programs.");
      break;
    default:
      say(messages, grammar.expand("{How are you?|How do you do?|Are you well?}"),
          grammar.expand("I am {well|fine}, thank you. {How can I help you?|What would you like to do?}"));
      break;
  }
}

void close(Random& random, std::vector<ChatMessage>& messages) {
  const Grammar grammar(random);
  if (random.chance(0.5)) {
    say(messages, grammar.expand("{Thank you|Thanks|Thank you very much|Great, thank you}{!|.}"),
        grammar.expand("You are welcome! {Is there anything else?|I am glad that I could help.|Come back soon.}"));
  } else {
    say(messages, grammar.expand("{Goodbye|Bye|See you|Good night}{!|.}"),
        grammar.expand("{Goodbye!|Goodbye! Come back soon.|Goodbye! Have a good day.}"));
  }
}

/// What a word of the little world means: its class, or what one does with a thing.
void define(Random& random, std::vector<ChatMessage>& messages) {
  const Grammar grammar(random);
  const size_t which = random.below(4);
  if (which == 0) {
    const words::Object& object = random.pick(words::objects);
    const std::string name = with_article(object.name);
    say(messages, grammar.expand("{What is|What can you do with} ") + name + "?",
        capitalised(name) + " is something that you can " + std::string(object.use) + ".");
    return;
  }
  struct Class {
    std::string_view one;
    std::string_view word;
  };
  const auto draw = [&]() -> Class {
    switch (random.below(3)) {
      case 0:
        return {"a fruit", random.pick(words::fruits)};
      case 1:
        return {"an animal", random.pick(words::beasts)};
      default:
        return {"a thing", random.pick(words::things)};
    }
  };
  const Class known = draw();
  const std::string name = with_article(known.word);
  if (which == 1) {
    say(messages, "What is " + name + "?", capitalised(name) + " is " + std::string(known.one) + ".");
    return;
  }
  const Class asked = draw();
  const bool right = asked.one == known.one;
  say(messages, "Is " + name + " " + std::string(asked.one) + "?",
      std::string(right ? "Yes, " : "No, ") + name + " is " + std::string(known.one) + ".");
}

void request_story(Random& random, std::vector<ChatMessage>& messages) {
  Grammar grammar(random);
  StoryRequest request;
  const size_t which = random.below(4);
  if (which == 0 || which == 2) request.animal = random.pick(words::animals);
  if (which == 1 || which == 2) request.object = random.pick(words::objects).name;
  const Story story = make_story(random, request);
  grammar.set("kind", story.kind);
  grammar.set("o", request.object);
  grammar.set("h", story.hero);
  const std::string verb = "{Write|Tell me|Please write|Please tell me} {a|a short} story";
  std::string question;
  if (which == 0) {
    question = grammar.expand(random.chance(0.5) ? verb + " about a~ $kind." : verb + " about a~ $kind named $h.");
  } else if (which == 1) {
    question = grammar.expand(verb + " about a~ $o.");
  } else if (which == 2) {
    question = grammar.expand(verb + " about a~ $kind and a~ $o.");
  } else {
    question = grammar.expand(random.chance(0.5) ? verb + "." : verb + " about a~ $kind named $h.");
  }
  say(messages, question, story.text);
  if (random.chance(0.4)) {
    const StoryQuestion& asked = story.questions[random.below(story.questions.size())];
    say(messages, asked.question, asked.answer);
  }
}

void ask_about_story(Random& random, std::vector<ChatMessage>& messages, bool last) {
  Story story;
  do {
    story = make_story(random);
  } while (is_held_out_text(story.text));
  std::vector<StoryQuestion> asked = story.questions;
  random.shuffle(asked);
  asked.resize(std::min<size_t>(asked.size(), static_cast<size_t>(random.between(1, 3))));
  for (size_t i = 0; i < asked.size(); ++i) {
    const bool thinking = last && i + 1 == asked.size() && random.chance(thinking_rate);
    say(messages, i == 0 ? story.text + "\n\n" + asked[i].question : asked[i].question,
        thinking ? "<think>" + asked[i].reason + "</think>" + asked[i].answer : asked[i].answer);
  }
}

}  // namespace

Exercise story_question(Random& random, bool held_out) {
  Story story;
  do {
    story = make_story(random);
  } while (is_held_out_text(story.text) != held_out);
  const StoryQuestion& asked = story.questions[random.below(story.questions.size())];
  Exercise exercise;
  exercise.task = "story question";
  exercise.question = story.text + "\n\n" + asked.question;
  exercise.answer = asked.answer;
  exercise.key = asked.key;
  exercise.rule = JudgeRule::contains;
  return exercise;
}

std::vector<ChatMessage> make_dialogue(Random& random) {
  std::vector<ChatMessage> messages;
  if (random.chance(0.3)) greet(random, messages);
  switch (random.below(6)) {
    case 0:
      introduce(random, messages);
      break;
    case 1:
      for (int64_t left = random.between(1, 4); left > 0; --left) define(random, messages);
      break;
    case 2:
    case 3:
      request_story(random, messages);
      break;
    case 4:
      ask_about_story(random, messages, true);
      return messages;  // the thoughts stay where the template keeps them
    default:
      for (int64_t left = random.between(1, 3); left > 0; --left) {
        if (random.chance(0.5)) {
          say(messages, list_exercise(random, "", false), false);
        } else {
          say(messages, arithmetic_exercise(random, "", false), left == 1 && random.chance(0.7));
        }
      }
      return messages;
  }
  if (random.chance(0.3)) close(random, messages);
  return messages;
}

}  // namespace fathom
