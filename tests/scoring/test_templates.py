from threading import Event, Thread

import jinja2
import pytest
from lm_eval import utils

from mergeopt.scoring.tasks import rendered_by
from mergeopt.scoring.templates import Templates

SAFE = ["{{q}} a\n", "{{ q|upper }}{% for x in q %}{{x}},{% endfor %}", "{{ q | regex_replace('a', 'b') }}", "{{q[0]}}"]


@pytest.mark.parametrize("template", SAFE)
def test_plain_templates_render_as_in_lm_eval(template):
    doc = {"q": "abc"}
    assert Templates(utils.env).from_string(template).render(**doc) == utils.apply_template(template, doc)


@pytest.mark.parametrize(
    "template",
    [
        "{{ cycler.__init__.__globals__.os.system('true') }}",
        "{{ q['__cla' ~ 'ss__'] }}",
        "{{ (q|attr('__class__')).__mro__ }}",
        "{{ '{0.__class__}'.format(q) }}",
    ],
)
def test_templates_reach_no_code(template):
    with pytest.raises((jinja2.exceptions.SecurityError, jinja2.exceptions.UndefinedError)):
        Templates(utils.env).from_string(template).render(q="abc")


def test_a_template_is_compiled_once():
    templates = Templates(utils.env)
    assert templates.from_string("{{q}}") is templates.from_string("{{q}}")


def test_two_threads_do_not_take_away_each_others_sandbox():
    before, inside, waited, seen = utils.env, Event(), Event(), []

    def first():
        with rendered_by(Templates(before)):
            inside.set()
            waited.wait(0.2)

    def second():
        inside.wait()
        with rendered_by(mine := Templates(before)):
            waited.set()
            threads[0].join(0.2)
            seen.append(utils.env is mine)

    threads = [Thread(target=first), Thread(target=second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [True] and utils.env is before
